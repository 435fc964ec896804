"""The coordinator's half of distillation: what sites have said of their outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from hetfed_lightning.flower.coordinator.method_rounds import MethodRounds
from hetfed_lightning.flower.protocol.description import Description
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.methods.distillation.teacher_descriptions import teacher_description
from hetfed_lightning.methods.messages import Message

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import Cohorts


class DistillationRounds(MethodRounds):
    """Rounds of one distillation callback at the coordinator.

    Args:
        place: Place of the callback among the callbacks.
        method: Distillation, made of the same configuration as at the sites.
        seed: Seed of the federation.
    """

    def __init__(self, place: int, method: EnsembleDistillation, seed: int) -> None:
        super().__init__(place, method, seed)
        self._distillation = method

    def pupils(self, round_index: int, cohorts: Cohorts) -> list[str]:
        """Participants that train for the first time after joining a run in progress, and ask for lessons.

        Args:
            round_index: The round, from 0.
            cohorts: Cohort of each round.
        """
        return self._distillation.pupils(round_index, self._server.about, cohorts)

    def about(self, descriptions: Mapping[str, Description]) -> dict[str, Message]:
        """Descriptions of teachers by name, made of the entries that bound each other; empty of who reads no example.

        Args:
            descriptions: Descriptions by participant.
        """
        found: dict[str, Message] = {}
        for name, one in descriptions.items():
            counts = torch.tensor(one.class_counts) if one.class_counts else None
            own = teacher_description(one.kind, one.width, one.samples, counts, one.lessons)
            found[name] = own if one.reads_public else {}
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a run, also of one whose coordinator kept teachers alone.

        Args:
            state: Result of :meth:`state_dict`, or the server's half.
        """
        if "method" not in state:
            state = {
                "method": self.method.as_saved({"server": state, "memory": {}}),
                "waiting": {},
                "spent": False,
            }
        super().load_state_dict(state)
