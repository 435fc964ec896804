"""What is trained: networks, data and settings of every workload, from torch alone.

The same module serves ours, the plain loop and the peers, which run in interpreters of their own without
Lightning. All data is made from seeds, and can be learned but not perfectly, so that accuracies can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

Data = tuple[Tensor, Tensor]
"""Inputs and targets, N of each."""

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

TEST_SIZE = 1000
PUBLIC_SIZE = 320


class Network(nn.Module):
    """A backbone and a head, named as those of a ``Participant``, so that states have equal keys."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs ``(B, C)``."""
        outputs: Tensor = self.head(self.backbone(inputs))
        return outputs


class Rows(nn.Module):
    """Reads an image row by row with a GRU; its last hidden state is the feature vector.

    Args:
        columns: Numbers in a row.
        width: Width of the hidden state.
    """

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(columns, width, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(B, width)`` of images ``(B, 1, rows, columns)``."""
        _, last = self.recurrent(images.squeeze(1))
        features: Tensor = last[-1]
        return features


def _perceptron(inputs: int, hidden: int, classes: int) -> Network:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU())
    return Network(backbone, nn.Linear(hidden, classes))


def _convolutions(channels: Sequence[int], kernel: int, width: int) -> Network:
    first, second = channels
    backbone = nn.Sequential(
        nn.Conv2d(1, first, kernel, padding=kernel // 2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(first, second, kernel, padding=kernel // 2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(second * 49, width), nn.ReLU(),
    )  # fmt: skip
    return Network(backbone, nn.Linear(width, 10))


def tabular() -> Network:
    """10-64-2."""
    return _perceptron(10, 64, 2)


def perceptron() -> Network:
    """784-200-10, the 2NN's little brother."""
    return _perceptron(784, 200, 10)


def fedavg_cnn() -> Network:
    """The CNN of McMahan et al. (2017): two 5x5 convolutions (32, 64), 512 features; 1,663,370 parameters."""
    return _convolutions((32, 64), 5, 512)


def small_cnn() -> Network:
    """Two 3x3 convolutions (16, 32), 64 features."""
    return _convolutions((16, 32), 3, 64)


def rows() -> Network:
    """A GRU of width 64 over the rows of an image."""
    return Network(Rows(28, 64), nn.Linear(64, 10))


def small_perceptron() -> Network:
    """784-64-10."""
    return _perceptron(784, 64, 10)


@dataclass(frozen=True)
class Workload:
    """A federation, its data and how long to watch it.

    Attributes:
        name: As the table and ``--workloads`` have it.
        participants: How many, N.
        architectures: One for all, or one per participant. Those of one architecture begin with equal weights.
        examples: Training examples per participant.
        image: Whether inputs are 1 x 28 x 28; 10 numbers otherwise.
        rate: Learning rate.
        adam: Whether AdamW trains instead of plain gradient descent.
        shared: What is averaged among participants of one architecture, as ``Participant(shared=...)`` has it.
        distils: Whether everybody learns from everybody's predictions on a public set at a round's end.
        rounds: Timed by default.
        batch_size: Examples per batch.
    """

    name: str
    participants: int
    architectures: tuple[Callable[[], Network], ...]
    examples: int
    image: bool
    rate: float
    adam: bool = False
    shared: str = "*"
    distils: bool = False
    rounds: int = 8
    batch_size: int = 32

    @property
    def names(self) -> list[str]:
        """Of the participants."""
        return [f"p{index}" for index in range(self.participants)]

    @property
    def classes(self) -> int:
        """Number of outputs."""
        return 10 if self.image else 2

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A participant's optimizer."""
        if self.adam:
            return torch.optim.AdamW(parameters, lr=self.rate)
        return torch.optim.SGD(parameters, lr=self.rate)

    def networks(self) -> dict[str, Network]:
        """Everybody's network before the first round, always the same."""
        first: dict[Callable[[], Network], Network] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            for architecture in self.architectures:
                if architecture not in first:
                    first[architecture] = architecture()
        made = self.architectures
        return {name: deepcopy(first[made[index % len(made)]]) for index, name in enumerate(self.names)}

    def data(self) -> dict[str, Data]:
        """Everybody's training set, always the same."""
        return {name: self.drawn(self.examples, 100 + index) for index, name in enumerate(self.names)}

    def test(self) -> Data:
        """A test set, which is everyone's."""
        return self.drawn(TEST_SIZE, 2)

    def public(self) -> Tensor:
        """Inputs that everybody may see."""
        return self.drawn(PUBLIC_SIZE, 3)[0]

    def drawn(self, count: int, seed: int) -> Data:
        """``count`` examples: the prototype of a class, in noise."""
        fixed, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
        targets = torch.randint(self.classes, (count,), generator=generator)
        if not self.image:
            prototypes = 0.6 * torch.randn(self.classes, 10, generator=fixed)
            return prototypes[targets] + torch.randn(count, 10, generator=generator), targets
        coarse = torch.randn(self.classes, 1, 7, 7, generator=fixed)
        # Smooth, so that a convolution has something to find.
        prototypes = 0.25 * functional.interpolate(coarse, size=(28, 28), mode="bilinear")
        return prototypes[targets] + torch.randn(count, 1, 28, 28, generator=generator), targets

    @property
    def batches(self) -> int:
        """Local steps of a participant in a round."""
        return -(-self.examples // self.batch_size)

    def accuracy(self, networks: Iterable[nn.Module], device: str = "cpu") -> float:
        """Mean of the networks' accuracies on the test set; of the first alone where all of everything is averaged."""
        chosen = list(networks)[: 1 if self.shared == "*" else None]
        inputs, targets = (tensor.to(device) for tensor in self.test())
        with torch.no_grad():
            found = [float((network(inputs).argmax(dim=1) == targets).double().mean()) for network in chosen]
        return sum(found) / len(found)


FOUR = (small_cnn, small_cnn, rows, small_perceptron)

WORKLOADS = {
    workload.name: workload
    for workload in (
        *(
            Workload(f"tabular-{n}", n, (tabular,), 960, False, 0.1, rounds=r)
            for n, r in ((20, 16), (100, 8), (400, 4))
        ),
        *(Workload(f"mlp-{n}", n, (perceptron,), 960, True, 0.05, rounds=r) for n, r in ((20, 10), (100, 8))),
        *(
            Workload(f"cnn-{n}", n, (fedavg_cnn,), e, True, 0.02, rounds=r)
            for n, e, r in ((4, 320, 8), (20, 320, 3), (100, 320, 3))
        ),
        *(Workload(f"gru-{n}", n, (rows,), e, True, 0.1, rounds=r) for n, e, r in ((4, 960, 8), (20, 480, 6))),
        Workload("four", 4, FOUR, 960, True, 1e-3, adam=True, shared="backbone", distils=True),
    )
}


ON_A_GPU = ("cnn-100",)
"""Too long for a CPU; left out unless named."""

SMALLEST = replace(WORKLOADS["tabular-20"], name="smallest", participants=3, examples=96, rounds=3)
"""For a look at whether everything runs."""


def named(name: str) -> Workload:
    """A workload by name.

    Raises:
        ValueError: If there is none of that name.
    """
    if name == SMALLEST.name:
        return SMALLEST
    if name not in WORKLOADS:
        raise ValueError(f"no workload {name!r}; there are {', '.join(WORKLOADS)}.")
    return WORKLOADS[name]
