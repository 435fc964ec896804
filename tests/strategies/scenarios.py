"""Federations that are trained on one device and on several ranks, with what both are compared by.

Each scenario takes settings of the Trainer and a folder of its own, and returns plain data and tensors.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedCallback,
    FederatedDataModule,
    Federation,
    FederationView,
    Participant,
    Phase,
    PrivateAveraging,
)
from hetfed_lightning.data import Examples
from hetfed_lightning.distillation import ClassPriorWeighted, ValidationWeighted
from hetfed_lightning.layers import GaussianNoise
from hetfed_lightning.methods.plans import Part
from tests.drawn import ROUNDS, drawn
from tests.federations import Listed, sgd, state_of, tiny_data, tiny_federation, tiny_participant, trainer
from tests.methods.own_methods import Common, ControlVariates, Nearest, Rumour
from tests.methods.planned import HEAD, FedMD, Planned, head_then_backbone
from tests.methods.published.finding import METHODS, made_alike

NAMES = ("a", "b", "c", "d", "e")
SIZES = {"a": 4, "b": 4, "c": 7, "d": 5, "e": 4}  # Of 13, 17, 21, 25 and 29 examples: last batches of one for a, b, e.
DRAWN = range(6)
"""Seeds of the federations that are drawn at random."""
Result = dict[str, Any]
Settings = Callable[[], dict[str, Any]]
"""Makes settings of the Trainer anew, since a strategy belongs to one Trainer."""


def with_norm(seed: int, **settings: Any) -> Participant:
    """A participant with running statistics and dropout, of another width than :func:`tiny_participant`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2))
        return Participant(backbone, nn.Linear(6, 3), **settings)


def adam(lr: float = 0.01) -> Callable[[Any], torch.optim.Optimizer]:
    """Adam, as ``Participant(optimizer=...)`` takes it."""
    return lambda parameters: torch.optim.Adam(parameters, lr=lr)


def five(**settings: Any) -> Federation:
    """Five participants of two architectures: schedulers, accumulation, clipping, epochs, an own prior, a newcomer."""
    return Federation(
        {
            "a": tiny_participant(
                seed=0, optimizer=adam(), lr_scheduler=lambda one: StepLR(one, 2, 0.5), lr_scheduler_interval="step"
            ),
            "b": tiny_participant(seed=1, optimizer=sgd(momentum=0.9), accumulate_grad_batches=3),
            "c": with_norm(2, optimizer=adam(), local_epochs=2),
            "d": with_norm(3, optimizer=sgd(momentum=0.9), gradient_clip_val=0.5, own_prior=0.5),
            "e": tiny_participant(seed=4, optimizer=adam(), joins_at=1),
        },
        engine="sequential",  # A fleet's last digits depend on who is in it.
        **settings,
    )


def one_by_one(data: FederatedDataModule, name: str) -> FederatedDataModule:
    """The same data, a participant's sets read sample by sample through a ``DataLoader``."""
    sets = data.data
    listed: dict[str, Any] = {
        kind: {owner: Listed(part) if owner == name else part for owner, part in getattr(sets, kind).items()}
        for kind in ("train", "val", "test")
    }
    data.replace_data(replace(sets, **listed))
    return data


def outcome(federation: Federation, made: L.Trainer) -> Result:
    """What has to be equal on every rank, and on one device."""
    return {
        "states": {name: state_of(participant) for name, participant in federation.everyone().items()},
        "metrics": {key: float(value) for key, value in made.callback_metrics.items()},
        "rates": {
            name: [group["lr"] for optimizer in local.optimizers for group in optimizer.param_groups]
            for name, local in federation.local.items()
        },
        "bytes": [federation.bytes_up, federation.bytes_down],
    }


def averaging_and_phase(folder: Path, settings: Settings) -> Result:
    """Everything that participants do together at a round's end, for three rounds, validated and tested."""
    federation = five(seed=3)
    data = one_by_one(tiny_data(NAMES, count=13, batch_size=SIZES), "b")
    together = (
        BackboneAveraging(proximal=0.1, server_optimizer=sgd(0.7, momentum=0.5)),
        EnsembleDistillation(ValidationWeighted(), epochs=2),
    )
    made = trainer(3, *together, **settings())
    made.fit(federation, datamodule=data)
    found = outcome(federation, made)
    (tested,) = [made.test(federation, datamodule=data, verbose=False)]
    scores = [{key: value for row in tested for key, value in row.items()}]
    return found | {"tested": scores, "predicted": made.predict(federation, datamodule=data)}


def mixed_student_participation(folder: Path, settings: Settings) -> Result:
    """A student, targets mixed into local steps, a sample of the participants each round."""
    federation = five(seed=5, student=tiny_participant(seed=9, optimizer=adam()), participation=0.6)
    callback = EnsembleDistillation(ClassPriorWeighted(), mode="mixed", students="both", start_round=1)
    made = trainer(4, callback, BackboneAveraging(), **settings())
    made.fit(federation, datamodule=tiny_data(NAMES, count=13, batch_size=SIZES))
    return outcome(federation, made)


def augmented(folder: Path, settings: Settings) -> Result:
    """Public examples changed at random as they are learned from, in local steps, in phases and by a student."""
    del folder
    names = ("a", "b", "c")
    own: dict[str, dict[str, Any]] = {"a": {"transform": noisy}, "b": {}, "c": {"optimizer": sgd(momentum=0.9)}}
    parts = {name: tiny_participant(seed=3, **one) for name, one in own.items()}
    federation = Federation(parts, tiny_participant(seed=9, optimizer=adam()), seed=6, engine="sequential")
    changed: dict[str, Any] = {"students": "both", "batch_size": 4, "public_transform": GaussianNoise(0.5)}
    methods = [EnsembleDistillation(mode="mixed", **changed), EnsembleDistillation(name="phase", **changed)]
    made = trainer(3, *methods, **settings())
    made.fit(federation, datamodule=tiny_data(names, count=13, batch_size={"a": 5, "b": 4, "c": 4}))
    return outcome(federation, made)


def own_methods(folder: Path, settings: Settings) -> Result:
    """Methods that no file of the package knows, over rounds with a newcomer and a sample of the participants."""
    federation = five(seed=4, participation=0.7)
    methods = (Nearest(2.0), ControlVariates(), Rumour(), Common())
    made = trainer(4, *methods, **settings())
    made.fit(federation, datamodule=tiny_data(NAMES, count=13, batch_size=SIZES))
    memory = {
        f"{name}, {method.title}": dict(one)
        for method in methods[1:3]
        for name, one in method.state_dict()["memory"].items()
    }
    counted = {f"{key} of all": value for key, value in federation.byte_count.figures().items()}
    found = outcome(federation, made) | {"memory": memory, "counted": counted}
    saved = folder / "own_methods.ckpt"
    made.save_checkpoint(saved)
    # From the checkpoint, by methods that have received nothing themselves.
    again, federation = trainer(1, Nearest(2.0), ControlVariates(), Rumour(), Common(), **settings()), five(seed=4)
    again.test(federation, datamodule=tiny_data(NAMES, count=13, batch_size=SIZES), ckpt_path=saved, verbose=False)
    return found | {"tested": outcome(federation, again)["metrics"]}


def published_methods(folder: Path, settings: Settings) -> Result:
    """Every published method as it comes, over rounds with a newcomer and a sample of the participants."""
    del folder
    found: Result = {}
    for name, kind in METHODS.items():
        members = {one: tiny_participant(seed=place) for place, one in enumerate("abcd")}
        members["d"].joins_at = 1
        for one in members.values():
            made_alike(kind, one)
        federation = Federation(members, seed=4, participation=0.7, engine="sequential")
        made = trainer(3, kind(), **settings())
        made.fit(federation, datamodule=tiny_data("abcd"))
        found[name] = outcome(federation, made)
    return found


def named(method: Planned, name: str) -> Planned:
    """The method, told apart from others of its class."""
    method.name = name
    return method


def plans(folder: Path, settings: Settings) -> Result:
    """Rounds of another length for each: stragglers, the head and then the rest, an optimizer of a part."""
    del folder
    late = lambda index: [Part(steps=3 * (index % 2)), Part(steps=1, trains=HEAD)]  # noqa: E731 - as short as its like
    planned: dict[str, Any] = {
        "a": head_then_backbone(1, 1),
        "b": head_then_backbone(1, 1, optimizer=adam(0.05)),
        "c": late,
        "e": lambda index: [Part(epochs=index), Part(steps=2, trains=("*", "!head"))],
    }
    federation = five(seed=6)
    public = Part(epochs=1, on="public", batch_size=4)
    shared = FedMD({"received": [public], "last": [public], "local": [Part(on="both", batch_size=5)]})
    again = named(Planned(lambda index: [Part(steps=index, trains=HEAD)], "received"), "received")
    last = named(Planned(lambda _: [Part(epochs=1)], "last"), "last")
    made = trainer(3, Planned(planned), BackboneAveraging(), again, last, shared, **settings())
    made.fit(federation, datamodule=tiny_data(NAMES, count=12, batch_size=4))
    steps = {f"steps of {name}": float(one.progress) for name, one in federation.local.items()}
    return outcome(federation, made) | {"counted": steps}


def quarantine(folder: Path, settings: Settings) -> Result:
    """One participant's weights run away; every rank leaves it out. With a logger, and all that is drawn for it."""
    federation = tiny_federation(
        ("a", "b", "c", "d"), engine="sequential", participant={"optimizer": sgd(momentum=0.9)}
    )
    federation["b"].optimizer_factory = sgd(1e30)
    data = tiny_data(("a", "b", "c", "d"))
    logger = TensorBoardLogger(folder)
    made = trainer(2, BackboneAveraging(), EnsembleDistillation(), logger=logger, **settings())
    made.fit(federation, datamodule=data)
    return outcome(federation, made) | {"quarantined": dict(federation.guard.quarantined)}


class Draws(FederatedCallback):
    """Draws in every event, as a server that makes noise does, and puts one number of it into everybody."""

    phase = Phase.AVERAGING

    def __init__(self) -> None:
        self.drawn: list[tuple[str, float, float, float]] = []

    def draw(self, event: str) -> None:
        """From all that a user's code may draw from."""
        self.drawn.append((event, float(torch.rand(())), random.random(), float(np.random.rand())))  # noqa: S311, NPY002

    def prepare(self, trainer: L.Trainer, federation: FederationView) -> None:
        self.draw("prepare")

    def on_round_start(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        self.draw("start")

    def on_join(self, trainer: L.Trainer, federation: FederationView, names: Sequence[str], round_index: int) -> None:
        self.draw("join")

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        self.draw("end")
        for one in federation.members().values():
            one.backbone[0].bias.data.fill_(self.drawn[-1][1])  # type: ignore[index]

    def on_metrics(self, trainer: L.Trainer, federation: FederationView, stage: Any, values: Any) -> None:
        self.draw(f"metrics of {stage}")


def noisy(inputs: Tensor) -> Tensor:
    """Draws by torch and NumPy."""
    return inputs + 0.1 * torch.randn_like(inputs) * np.random.rand()  # noqa: NPY002


class Idle(Participant):
    """Takes no step in the first round."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """None: Lightning goes on without a step."""
        return super().training_step(batch, batch_idx) if self.current_epoch > 0 else None


def draws_and_no_steps(folder: Path, settings: Settings) -> Result:
    """Callbacks and transforms that draw, a participant without a step, a quorum of all, a newcomer."""
    del folder
    members = {name: tiny_participant(seed=index) for index, name in enumerate("abcd")}
    members["b"] = Idle(members["b"].backbone, members["b"].head, optimizer=sgd(), transform=noisy)
    members["d"].joins_at = 1
    federation = Federation(members, engine="sequential", min_participants=3, seed=2)
    draws = Draws(), Draws()
    seen = LambdaCallback(on_train_epoch_end=lambda made, one: volumes.append([one.bytes_up, one.bytes_down]))
    volumes: list[list[int]] = []
    made = trainer(2, *draws, BackboneAveraging(), EnsembleDistillation(), seen, **settings())
    made.fit(federation, datamodule=tiny_data("abcd"))
    return outcome(federation, made) | {"drawn": [one.drawn for one in draws], "volumes": volumes}


def any_small_federations(folder: Path, settings: Settings) -> Result:
    """Some of those that can be drawn at random, one after another."""
    del folder
    found = {}
    for seed in DRAWN:
        one = drawn(seed)
        federation = tiny_federation("abc", engine="sequential", participation=one.participation, seed=seed)
        for name, participant in federation.members().items():
            one.change(name, participant)
        volumes: list[list[int]] = []
        seen = LambdaCallback(
            on_train_epoch_end=lambda _, federation, said=volumes: said.append(
                [federation.bytes_up, federation.bytes_down]
            )
        )
        made = trainer(ROUNDS, *one.callbacks(), seen, **settings())
        made.fit(federation, datamodule=tiny_data("abc"))
        found[str(seed)] = outcome(federation, made) | {"volumes": volumes}
    return found


def private(folder: Path, settings: Settings) -> Result:
    """Noise that no seed names: every rank has to receive the same."""
    federation = tiny_federation(("a", "b", "c", "d"), engine="sequential", participant={"optimizer": sgd(0.0)})
    averaging = PrivateAveraging(noise_multiplier=2.0, max_update_norm=0.5, delta=1e-3)
    made = trainer(2, averaging, **settings())
    made.fit(federation, datamodule=tiny_data(("a", "b", "c", "d")))
    return outcome(federation, made) | {"releases": averaging.releases}


def saving(folder: Path, settings: Settings) -> Result:
    """Three rounds with a checkpoint after every fifth batch."""
    return _checkpointed(folder, None, settings)


def resuming(folder: Path, settings: Settings) -> Result:
    """The same, from each of the checkpoints in ``folder``."""
    found = {}
    for path in sorted((folder / "saved").glob("*.ckpt")):
        found[path.name] = _checkpointed(folder / path.stem, path, settings)
    return found


def _checkpointed(folder: Path, ckpt_path: Path | None, settings: Settings) -> Result:
    federation = five(seed=3)
    keep = ModelCheckpoint(folder / "saved", filename="{step}", every_n_train_steps=5, save_top_k=-1)
    callbacks = [BackboneAveraging(), EnsembleDistillation(mode="mixed"), keep]
    made = trainer(3, *callbacks, enable_checkpointing=True, **settings())
    made.fit(federation, datamodule=tiny_data(NAMES, count=13, batch_size=SIZES), ckpt_path=ckpt_path)
    return outcome(federation, made)


class Slow(Participant):
    """Takes as long for a batch as others for fifty, and remembers how many it has seen."""

    seen = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """As any other, later."""
        time.sleep(0.02)
        self.seen += 1
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        """Log what only its host knows."""
        self.log("seen", float(self.seen))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take along what is in no tensor."""
        checkpoint["seen"] = self.seen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with it."""
        self.seen = checkpoint["seen"]


def moving(folder: Path, settings: Settings) -> Result:
    """Two of four participants of one size are slow: measured times divide them, with momenta and schedules."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        members = {
            name: (Slow if name in {"a", "c"} else Participant)(
                nn.Sequential(nn.Linear(4, 5), nn.ReLU()),
                nn.Linear(5, 3),
                optimizer=adam(),
                lr_scheduler=lambda one: StepLR(one, 2, 0.5),
                lr_scheduler_interval="step",
            )
            for name in ("a", "b", "c", "d")
        }
    federation = Federation(members, engine="sequential")
    hosts: dict[int, Any] = {}
    watching = LambdaCallback(
        on_train_epoch_start=lambda trainer, _: hosts.update({trainer.current_epoch: _hosts(federation)})
    )
    made = trainer(3, watching, BackboneAveraging(), **settings())
    made.fit(
        federation, datamodule=FederatedDataModule({name: Examples(*_eight(name)) for name in members}, batch_size=4)
    )
    return outcome(federation, made) | {"before": hosts}


def _hosts(federation: Federation) -> dict[str, int]:
    placement = getattr(federation.ranks, "placement", None)
    return {} if placement is None else dict(placement.hosts)


def _eight(name: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(ord(name))
    inputs = torch.randn(8, 4, generator=generator)
    return inputs, inputs[:, :3].argmax(dim=1)


class BeforeTheOthers(L.Callback):
    """Keeps parameters as the last local steps left them, before any rank has heard of another."""

    def __init__(self) -> None:
        self.states: list[dict[str, dict[str, Tensor]]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        """At the last batch."""
        if trainer.is_last_batch:
            own = {name: dict(one.named_parameters()) for name, one in pl_module.members().items()}
            self.states.append({name: {key: one.detach().clone() for key, one in p.items()} for name, p in own.items()})


def split_batches(folder: Path, settings: Settings) -> Result:
    """Networks without dropout and batch normalisation, whose whole gradient is the mean of its parts'."""
    own: dict[str, dict[str, Any]] = {
        "a": {"optimizer": adam(), "accumulate_grad_batches": 2},
        "b": {"optimizer": sgd(momentum=0.9), "gradient_clip_val": 0.1},
        "c": {"optimizer": sgd(momentum=0.9), "local_epochs": 2},
    }
    federation = Federation({name: tiny_participant(seed=3, **one) for name, one in own.items()})
    seen = BeforeTheOthers()
    made = trainer(3, seen, BackboneAveraging(proximal=0.2), EnsembleDistillation(mode="mixed"), **settings())
    made.fit(federation, datamodule=tiny_data(("a", "b", "c"), count=13, batch_size={"a": 5, "b": 4, "c": 4}))
    return outcome(federation, made) | {"before": dict(enumerate(seen.states))}


def fleets(folder: Path, settings: Settings) -> Result:
    """Six of one architecture, trained as one computation where they are."""
    del folder
    names = ("a", "b", "c", "d", "e", "f")
    federation = tiny_federation(names, engine="batched", participant={"optimizer": sgd(momentum=0.9)})
    made = trainer(3, BackboneAveraging(), EnsembleDistillation(public_transform=GaussianNoise(0.1)), **settings())
    made.fit(federation, datamodule=tiny_data(names, count=13))
    return outcome(federation, made) | {"before": sorted(federation.fleets.chosen.values())}


SCENARIOS: dict[str, Callable[..., Result]] = {
    one.__name__: one
    for one in (
        averaging_and_phase,
        mixed_student_participation,
        quarantine,
        augmented,
        published_methods,
        own_methods,
        plans,
        draws_and_no_steps,
        any_small_federations,
        private,
        saving,
        resuming,
        split_batches,
        moving,
        fleets,
    )
}


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of a nested result by path."""
    if isinstance(value, dict):
        return {key: leaf for name, part in value.items() for key, leaf in flat(part, f"{prefix}/{name}").items()}
    if isinstance(value, (list, tuple)):
        return {key: leaf for index, part in enumerate(value) for key, leaf in flat(part, f"{prefix}/{index}").items()}
    return {prefix: value}


def after_exchange(result: Result) -> Result:
    """What ranks have in common with each other and with one device."""
    return {key: value for key, value in result.items() if key != "before"}


def differences(one: Any, other: Any, tolerance: float = 0.0) -> list[str]:
    """Paths at which two results differ by more than ``tolerance``."""
    left, right = flat(one), flat(other)
    found = [f"{key}: only in one" for key in left.keys() ^ right.keys()]
    for key in left.keys() & right.keys():
        first, second = torch.as_tensor(_number(left[key])), torch.as_tensor(_number(right[key]))
        if not torch.allclose(first.double(), second.double(), rtol=0, atol=tolerance, equal_nan=True):
            found.append(f"{key}: {left[key]} and {right[key]}")
    return sorted(found)


def _number(value: Any) -> Any:
    return value if isinstance(value, (Tensor, int, float)) else float(sum(map(ord, str(value))))
