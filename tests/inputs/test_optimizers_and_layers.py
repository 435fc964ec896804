"""Optimizers that cannot step what they are given, and layers without weights, are refused before the first step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedDataModule,
    Federation,
    Participant,
    ParticipantGroup,
)
from hetfed_lightning.data import Examples
from hetfed_lightning.finite import is_finite
from hetfed_lightning.local_training.step_checks import needs_closure
from tests.federations import examples, fit, sgd, tiny_data, tiny_federation, tiny_participant, values

pytestmark = pytest.mark.promise("bad settings")


def lbfgs(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(parameters, lr=0.1)


# Closures


def test_an_optimizer_that_needs_a_closure_is_refused_by_name() -> None:
    words = r"participant 'a': LBFGS evaluates the loss several times.*automatic_optimization = False"
    with pytest.raises(ValueError, match=words):
        fit(tiny_federation("ab", participant={"optimizer": lbfgs}), tiny_data("ab"), 1)


@pytest.mark.parametrize(
    "kind",
    [one for one in vars(torch.optim).values() if isinstance(one, type) and issubclass(one, torch.optim.Optimizer)],
)
def test_of_torchs_optimizers_lbfgs_alone_needs_a_closure(kind: type[torch.optim.Optimizer]) -> None:
    made = kind.__new__(kind)  # Each wants other arguments; which class it is says enough.
    assert kind is torch.optim.Optimizer or needs_closure(made) == (kind is torch.optim.LBFGS)


def test_a_closure_by_hand_does_what_it_does_alone() -> None:
    # Of a line, LBFGS with a line search finds the least squares in one step over all examples.
    class ByHand(Participant):
        def __init__(self) -> None:
            super().__init__(
                nn.Linear(3, 1, bias=False).double(),
                task="regression",
                optimizer=lambda p: torch.optim.LBFGS(p, max_iter=50, line_search_fn="strong_wolfe"),
            )
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            del batch_idx
            optimizer = self.optimizers()

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = self.task.loss(self(batch[0]), batch[1])
                self.manual_backward(loss)
                return loss

            optimizer.step(closure)

    mine = values(20)
    federation = Federation({"a": ByHand()})
    fit(federation, FederatedDataModule({"a": mine}, batch_size=20), 1)
    assert mine.targets is not None
    expected = torch.linalg.lstsq(mine.inputs, mine.targets).solution.T
    found = federation["a"].backbone.weight
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make", [lambda o: BackboneAveraging(server_optimizer=o), lambda o: EnsembleDistillation(optimizer=o)]
)
def test_a_callbacks_optimizer_that_needs_a_closure(make: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match=r"optimizer=...\): LBFGS evaluates the loss several times"):
        fit(tiny_federation("ab"), tiny_data("ab"), 1, make(lbfgs))


# Sparse gradients


def words(seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    return Examples(torch.randint(7, (12, 3), generator=generator), torch.randint(3, (12,), generator=generator))


def reader(*, sparse: bool = True, **settings: Any) -> Participant:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Participant(
            nn.Sequential(nn.Embedding(7, 4, sparse=sparse), nn.Flatten()), nn.Linear(12, 3), **settings
        )  # fmt: skip


def fit_readers(rounds: int = 1, **settings: Any) -> Federation:
    federation = Federation({name: reader(**settings) for name in "ab"})
    fit(federation, FederatedDataModule({"a": words(1), "b": words(2)}, batch_size=4), rounds, BackboneAveraging())
    return federation


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, r"participant 'a': Adam takes no sparse gradients, which backbone\.0 \(Embedding\(sparse=True\)\) makes"),
        ({"optimizer": torch.optim.AdamW}, "participant 'a': AdamW takes no sparse gradients"),
        ({"optimizer": sgd(weight_decay=0.1)}, "participant 'a': SGD takes no sparse gradients"),
        ({"optimizer": torch.optim.SparseAdam}, "participant 'a': SparseAdam takes nothing but sparse gradients"),
        ({"optimizer": sgd(), "gradient_clip_val": 1.0}, r"participant 'a': gradient_clip_val=1\.0 .*Embedding"),
    ],
)
def test_sparse_gradients_that_cannot_be_stepped(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fit_readers(**settings)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch's Adagrad
@pytest.mark.parametrize("optimizer", [sgd(), lambda p: torch.optim.Adagrad(p, lr=0.1)])
def test_sparse_gradients_that_can_be_stepped_are_those_of_dense_ones(optimizer: Any) -> None:
    found, expected = fit_readers(2, optimizer=optimizer), fit_readers(2, optimizer=optimizer, sparse=False)
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_an_error_in_a_step_with_sparse_gradients_is_not_hidden_by_the_end_of_the_run() -> None:
    class Fails(Participant):
        def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
            raise RuntimeError("meant to fail")

    made = reader(optimizer=sgd())
    federation = Federation({"a": Fails(made.backbone, made.head, optimizer=sgd())})
    with pytest.raises(RuntimeError, match="meant to fail"):
        fit(federation, FederatedDataModule({"a": words(1)}, batch_size=4), 1)


# Complex weights


class Spectrum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5, dtype=torch.cfloat))

    def forward(self, inputs: Tensor) -> Tensor:
        features: Tensor = (torch.fft.rfft(inputs) @ self.weight).abs()
        return features


@pytest.mark.parametrize("settings", [{}, {"proximal": 0.1}, {"server_optimizer": sgd()}])
def test_complex_weights_are_refused_before_they_are_averaged(settings: dict[str, Any]) -> None:
    federation = Federation({name: Participant(Spectrum(), nn.Linear(5, 3)) for name in "ab"})
    before = {key: tensor.clone() for key, tensor in federation.state_dict().items()}
    with pytest.raises(ValueError, match=r"participant 'a': backbone\.weight is of torch\.complex64"):
        fit(federation, tiny_data("ab"), 1, BackboneAveraging(**settings))
    assert all(torch.equal(before[key], tensor) for key, tensor in federation.state_dict().items())


def test_complex_weights_that_stay_at_home_are_trained() -> None:
    federation = Federation({name: Participant(Spectrum(), nn.Linear(5, 3), shared=("head",)) for name in "ab"})
    fit(federation, tiny_data("ab"), 1, BackboneAveraging())
    assert torch.equal(federation["a"].head.weight, federation["b"].head.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [complex(float("nan"), 0), complex(0, float("inf"))])
def test_a_complex_number_that_is_not_finite_is_seen(bad: complex) -> None:
    assert is_finite([torch.ones(3, dtype=torch.cfloat), torch.ones(2)])
    assert not is_finite([torch.ones(2), torch.tensor([1 + 1j, bad])])


# Lazy layers


def test_a_lazy_layer_without_weights_is_refused_by_name() -> None:
    federation = Federation({"a": tiny_participant(), "b": Participant(nn.LazyLinear(5), nn.Linear(5, 3))})
    with pytest.raises(ValueError, match=r"participant 'b': backbone \(LazyLinear\) has no weights yet"):
        fit(federation, tiny_data("ab"), 1)
    federation["b"](examples(2).inputs)  # The way out that the message names.
    fit(federation, tiny_data("ab"), 1)


def test_a_group_of_a_lazy_layer_is_refused() -> None:
    group = ParticipantGroup(2, Participant(nn.Sequential(nn.LazyBatchNorm1d()), nn.Linear(4, 3)))
    with pytest.raises(ValueError, match=r"ParticipantGroup.*: backbone\.0 \(LazyBatchNorm1d\) has no weights yet"):
        Federation({"clinic": group})
