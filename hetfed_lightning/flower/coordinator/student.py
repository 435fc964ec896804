"""The unified student at the coordinator, which learns there alone, from the sites' predictions."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hetfed_lightning.data.examples import Examples
from hetfed_lightning.data.module import FederatedData, FederatedDataModule
from hetfed_lightning.federated_callback import FederatedCallback
from hetfed_lightning.federation.federation import Federation
from hetfed_lightning.flower.protocol.orders import Order, Reply
from hetfed_lightning.flower.site.site import Site, SiteParts
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.participants.participant import Participant

if TYPE_CHECKING:
    from hetfed_lightning.flower.coordinator.server_config import ServerConfig
    from hetfed_lightning.flower.protocol.description import Description
    from hetfed_lightning.methods.messages import Message

TEACHERS = "teachers"
"""Name of a stand-in for the sites in the student's federation, which needs a participant; no result of it is used."""


class Student:
    """Student trained as a site trains its participant, in this process and on the coordinator's disk.

    Args:
        config: The server's configuration, with a student and a public set.
        folder: Folder of the run, where the student's states are kept.
    """

    def __init__(self, config: ServerConfig, folder: Path) -> None:
        self._site = Site(lambda: _parts(config), folder / "student")
        heard = enumerate(_callbacks(config))
        self._taught_by = {place for place, one in heard if isinstance(one, EnsembleDistillation)}

    def describe(self) -> Description:
        """Description of the student for records, telling also whether it can predict on the public set."""
        return self._site.describe()

    def learn(self, run: str, round_index: int, results: Mapping[int, Message]) -> Reply:
        """Reply of the student after a round, with its metrics.

        Args:
            run: Name of the run.
            round_index: The round, from 0.
            results: Softened targets of the ensembles, shape ``(P, C)`` by key, by the callback's place; empty if the
                round does not distil. Those of ensembles that teach participants alone are left aside.
        """
        self._site.carry_out(Order(run, begin=round_index))
        quarantined, own = "", {place: one for place, one in results.items() if place in self._taught_by}
        if own:
            quarantined = self._site.carry_out(Order(run, learn=round_index, shared=own)).quarantined
        closed = self._site.carry_out(Order(run, finish=round_index))
        closed.quarantined = quarantined
        return closed


def _parts(config: ServerConfig) -> SiteParts:
    student, data = config.student, config.data
    if student is None or data is None:
        raise ValueError("The server's configuration has no student or no public set.")
    settings = {key: value for key, value in config.trainer.items() if key != "max_epochs"}
    teachers = Participant(_OfAnything(), task="regression", shared=())
    federation = Federation({TEACHERS: teachers}, deepcopy(student), seed=config.seed, engine="sequential")
    return SiteParts(federation, _StudentData(data), settings, _callbacks(config), config.rounds)


def _callbacks(config: ServerConfig) -> list[FederatedCallback]:
    """Callbacks of the configuration at their places, of which only ensembles that teach the student do anything."""
    return [_for_student(one) for one in config.callbacks if isinstance(one, FederatedCallback)]


def _for_student(callback: FederatedCallback) -> FederatedCallback:
    if not isinstance(callback, EnsembleDistillation) or not callback.learners(has_student=True)[1]:
        return FederatedCallback()
    found = deepcopy(callback)
    found.students = "student"  # The stand-in for the sites learns nothing.
    return found


class _OfAnything(nn.Module):
    """Network of the stand-in: a number for each example, whatever the inputs are."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Any) -> Tensor:
        """The number, shape ``(B, 1)``."""
        first = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
        return self.number.expand(len(first), 1)


class _StudentData(FederatedDataModule):
    """The public set, the global sets if the coordinator has them, and one unused example for ``TEACHERS``."""

    def __init__(self, inside: FederatedDataModule) -> None:
        super().__init__(eval_batch_size=inside.eval_batch_size, collate_fn=inside.collate_fn)
        self._inside = inside

    def load(self, participants: tuple[str, ...]) -> FederatedData:
        """The unused example, the public set and the global sets."""
        found = self._inside.load(participants)
        number = Examples(torch.zeros(1, 1), torch.zeros(1, 1))
        return FederatedData(
            {TEACHERS: number}, {}, {}, found.public, global_val=found.global_val, global_test=found.global_test
        )
