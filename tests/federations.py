"""Federations so small that a test can work out by hand what they do, and a Trainer that says nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hetfed_lightning import FederatedCallback, FederatedDataModule, Federation, FederationView, Participant, Phase
from hetfed_lightning.data import Examples

NAMES = ("a", "b", "c")


def sgd(lr: float = 0.1, **settings: Any) -> Callable[[Any], torch.optim.Optimizer]:
    """Plain gradient descent, as ``Participant(optimizer=...)`` takes it."""
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, **settings)


def examples(count: int, *, features: int = 4, classes: int = 3, seed: int = 0) -> Examples:
    """``count`` random samples; the class is where the first ``classes`` features are largest."""
    inputs = torch.randn(count, features, generator=torch.Generator().manual_seed(seed))
    return Examples(inputs, inputs[:, :classes].argmax(dim=1))


def values(count: int, *, features: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Examples:
    """``count`` random samples of a regression whose line depends on the seed, with noise."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, features, generator=generator, dtype=dtype)
    line = torch.randn(features, 1, generator=generator, dtype=dtype)
    return Examples(inputs, inputs @ line + 0.1 * torch.randn(count, 1, generator=generator, dtype=dtype))


def tiny_participant(
    *, features: int = 4, hidden: int = 5, classes: int = 3, seed: int = 0, **settings: Any
) -> Participant:
    """A network of two layers: ``backbone`` (shared by default) and ``head``. ``seed`` names its initial weights."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        backbone = nn.Sequential(nn.Linear(features, hidden), nn.ReLU())
        head = nn.Linear(hidden, classes)
    settings.setdefault("optimizer", sgd())
    return Participant(backbone, head, **settings)


def line(features: int = 3, *, weights: Sequence[float] | None = None, **settings: Any) -> Participant:
    """A regression without bias, of which everything is shared: ``backbone.weight`` of shape (1, features)."""
    backbone = nn.Linear(features, 1, bias=False)
    with torch.no_grad():
        backbone.weight.copy_(torch.zeros(1, features) if weights is None else torch.tensor([weights]))
    settings.setdefault("optimizer", sgd())
    return Participant(backbone, **({"shared": ("*",), "task": "regression"} | settings))


def tiny_federation(names: Sequence[str] = NAMES, *, seed: int = 0, **settings: Any) -> Federation:
    """Participants of :func:`tiny_participant`, each with initial weights of its own; settings are the federation's.

    Those of the participants, equal for all, go in as ``participant={...}``.
    """
    own = settings.pop("participant", {})
    return Federation(
        {name: tiny_participant(seed=index, **own) for index, name in enumerate(names)}, seed=seed, **settings
    )


def tiny_data(
    names: Sequence[str] = NAMES, *, count: int = 12, evaluated: bool = True, **settings: Any
) -> FederatedDataModule:
    """A data module of :func:`examples`: training sets of ``count``, ``count + 4``, ... samples, and a public set."""
    train = {name: examples(count + 4 * index, seed=index) for index, name in enumerate(names)}
    if evaluated:
        sets: dict[str, Any] = {
            "val": {name: examples(6, seed=100 + index) for index, name in enumerate(names)},
            "test": {name: examples(6, seed=200 + index) for index, name in enumerate(names)},
            "global_val": "pooled",
            "global_test": "pooled",
        }
        settings = sets | settings
    settings.setdefault("public", examples(10, seed=300))
    settings.setdefault("batch_size", 4)
    return FederatedDataModule(train, **settings)


def trainer(rounds: int = 1, *callbacks: L.Callback, **settings: Any) -> L.Trainer:
    """A Trainer without logger, checkpoints, progress bar, summary or sanity check."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return L.Trainer(max_epochs=rounds, callbacks=list(callbacks), **(quiet | settings))


def fit(
    federation: Federation, data: FederatedDataModule, rounds: int = 1, *callbacks: L.Callback, **settings: Any
) -> L.Trainer:
    """Train for some rounds; ``settings`` are the Trainer's, but for ``ckpt_path``, which is that of ``fit``."""
    ckpt_path = settings.pop("ckpt_path", None)
    made = trainer(rounds, *callbacks, **settings)
    made.fit(federation, datamodule=data, ckpt_path=ckpt_path)
    return made


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of everything a module has learned."""
    return {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two states agree in every bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class Listed(Dataset[Any]):
    """The samples of :class:`Examples` one by one, as a data set that is not in memory gives them."""

    def __init__(self, inside: Examples) -> None:
        self.inside = inside

    def __len__(self) -> int:
        return len(self.inside)

    def __getitem__(self, index: int) -> Any:
        return self.inside[index]


class Snapshots(FederatedCallback):
    """Keeps everyone's state as each round begins and as it ends, after all that the participants do together."""

    phase = Phase.MONITORING

    def __init__(self) -> None:
        self.starts: list[dict[str, dict[str, Tensor]]] = []
        self.ends: list[dict[str, dict[str, Tensor]]] = []
        self.bytes: list[tuple[int, int]] = []

    def on_round_start(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        del trainer, round_index
        self.starts.append({name: state_of(member) for name, member in federation.everyone().items()})

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        del trainer, round_index
        self.ends.append({name: state_of(member) for name, member in federation.everyone().items()})
        self.bytes.append((federation.bytes_up, federation.bytes_down))


class SnapshotsBefore(Snapshots):
    """As :class:`Snapshots`, before distillation and averaging: the end of the local steps."""

    phase = Phase.GUARD
