"""The same tiny federation twice: in one fit, and as sites with a coordinator between them in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor, nn

from hetfed_lightning import FederatedCallback, FederatedDataModule, Federation, Participant
from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.flower.coordinator.coordinator import Coordinator
from hetfed_lightning.flower.coordinator.messenger import Messenger
from hetfed_lightning.flower.coordinator.server_config import ServerConfig
from hetfed_lightning.flower.protocol.description import Description
from hetfed_lightning.flower.site.site import Site, SiteParts
from tests.federations import fit, state_of, tiny_data, tiny_federation
from tests.flower.grids import FakeGrid

Callbacks = Callable[[], Sequence[FederatedCallback]]


@dataclass
class Notes:
    """A journal that keeps what it is told."""

    rounds: list[int] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    introduced: list[list[str]] = field(default_factory=list)
    ended: str = ""

    def introduce(self, descriptions: Mapping[str, Description], callbacks: Any, first_round: int) -> None:
        del callbacks, first_round
        self.introduced.append(list(descriptions))

    def close_round(
        self,
        round_index: int,
        figures: Mapping[str, float],
        metrics: Mapping[str, float],
        left_out: Mapping[str, str],
        seconds: float,
    ) -> None:
        del seconds
        if self.rounds[-1:] == [round_index]:  # A round is closed again after a restart.
            for kept in (self.rounds, self.figures, self.metrics, self.left_out):
                del kept[-1]
        self.rounds.append(round_index)
        self.figures.append(dict(figures))
        self.metrics.append(dict(metrics))
        self.left_out.append(dict(left_out))

    def finish(self) -> None:
        self.ended = "finished"

    def fail(self, reason: str) -> None:
        self.ended = reason


class Rounds(FederatedCallback):
    """Keeps what is logged of each round, its validation included."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        del pl_module
        self.metrics.append({key: float(value) for key, value in trainer.callback_metrics.items()})


@dataclass
class Deployed:
    """A federation whose participants are sites.

    Attributes:
        names: Of the participants.
        callbacks: Makes those of the configuration.
        folder: Where sites and coordinator keep their states.
        rounds: How many.
        participants: Settings of all participants.
        own: Settings of single participants, by name.
        changes: Applied to single participants, by name.
        networks: Makes a participant's backbone and head, by name.
        settings: Of the server.
    """

    names: Sequence[str]
    callbacks: Callbacks
    folder: Path
    rounds: int = 3
    participants: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    changes: Mapping[str, Callable[[Participant], None]] = field(default_factory=dict)
    networks: Mapping[str, Callable[[], tuple[nn.Module, nn.Module]]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Callable[[Sequence[str]], FederatedDataModule] = tiny_data

    def __post_init__(self) -> None:
        self.grid = FakeGrid({name: Site(self.parts_of(name), self.folder / name) for name in self.names})
        self.notes = Notes()

    def everyone(self, **settings: Any) -> Federation:
        """All participants in one federation."""
        made = tiny_federation(self.names, engine="sequential", participant=dict(self.participants), **settings)
        for name, build in self.networks.items():
            made[name].backbone, made[name].head = build()
            made[name].attach(name, made)
        for name, own in self.own.items():
            for key, value in own.items():
                setattr(made[name], key, value)
        for name, change in self.changes.items():
            change(made[name])
        return made

    def parts_of(self, name: str) -> Callable[[], SiteParts]:
        """Makes what one site trains."""

        def make() -> SiteParts:
            participant = self.everyone()[name]
            participant.detach()
            data = self.data(self.names)
            whole = data.data
            sets: Any = {key: {name: getattr(whole, key)[name]} for key in ("train", "val", "test")}
            data.replace_data(replace(whole, **sets))
            federation = Federation({name: participant}, engine="sequential")
            return SiteParts(federation, data, {"accelerator": "cpu"}, self.callbacks(), self.rounds)

        return make

    def coordinator(self, *, resume: bool = False, **settings: Any) -> Coordinator:
        """A coordinator that goes as far as there is something to wait for, without waiting."""
        known: dict[str, Any] = {"deadline": 30.0, "wait": 0.05} | dict(self.settings) | settings
        config = ServerConfig(
            self.folder / "server.yaml", tuple(self.names), self.rounds, callbacks=list(self.callbacks()), **known
        )
        messenger = Messenger(self.grid)
        return Coordinator(config, messenger, self.notes, self.folder, resume=resume)  # type: ignore[arg-type]

    def lead(self, **settings: Any) -> Coordinator:
        """All rounds."""
        made = self.coordinator(**settings)
        made.lead()
        return made

    def states(self, run: str) -> dict[str, dict[str, Tensor]]:
        """Where each site stands, from its disk."""
        found = {}
        for name in self.names:
            newest = max((self.folder / name / run).glob("*-finished.ckpt"))
            state = read_checkpoint(newest)["state_dict"]
            found[name] = {key.removeprefix(f"participants.{name}."): value for key, value in state.items()}
        return found

    def in_one_fit(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
        """States and metrics after the same rounds in one process."""
        states, metrics = self.rounds_in_one_fit()
        return states, metrics[-1]

    def rounds_in_one_fit(self) -> tuple[dict[str, dict[str, Tensor]], list[dict[str, float]]]:
        """States after the same rounds in one process, and the metrics of each round."""
        known = {key: self.settings[key] for key in ("participation", "min_participants") if key in self.settings}
        federation, rounds = self.everyone(**known), Rounds()
        fit(federation, self.data(self.names), self.rounds, *self.callbacks(), rounds)
        return {name: state_of(one) for name, one in federation.members().items()}, rounds.metrics
