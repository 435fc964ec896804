"""Methods that plan, for tests: one that does nothing else, and one that learns on the public set."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hetfed_lightning import Combined, Context, Message, Participant, ParticipantData, Work
from hetfed_lightning.methods.method import Method
from hetfed_lightning.methods.plans import Part

Plan = Callable[[int], Sequence[Part]]
HEAD, BACKBONE = ("head",), ("backbone",)


def head_then_backbone(head: int = 2, backbone: int = 1, **settings: Any) -> Plan:
    """The scheme of FedRep: epochs of the head alone, then of the backbone alone."""
    parts = [Part(epochs=head, trains=HEAD, **settings), Part(epochs=backbone, trains=BACKBONE, **settings)]
    return lambda _: parts


class Planned(Method):
    """Plans by name and round, or one for all; nothing travels.

    Args:
        plans: A function of the round for each participant, or one for all.
        moment: The moment that they are for.
    """

    exchanges = ()

    def __init__(self, plans: Mapping[str, Plan] | Plan, moment: str = "local") -> None:
        self.plans, self.moment = plans, moment
        self.asked: list[tuple[str, str, int]] = []

    def plan(self, participant: Participant, moment: Any, round_index: int) -> Sequence[Part]:
        """The plan for a participant's round."""
        self.asked.append((participant.name or "", moment, round_index))
        plan = self.plans.get(participant.name or "") if isinstance(self.plans, Mapping) else self.plans
        return () if plan is None or moment != self.moment else plan(round_index)


class FedMD(Method):
    """Mean outputs on the public set travel, and everyone's outputs are pulled towards them (Li and Wang 2019).

    Args:
        parts: Parts by moment, in every round.
        first: First round of the parts for the moment ``"local"``.
    """

    public_alone = True

    def __init__(self, parts: Mapping[str, Sequence[Part]], first: int = 0) -> None:
        self.parts, self.first = parts, first

    def plan(self, participant: Participant, moment: Any, round_index: int) -> Sequence[Part]:
        """The parts for a moment."""
        return () if moment == "local" and round_index < self.first else self.parts.get(moment, ())

    def send(self, participant: Participant, data: ParticipantData, work: Work, context: Context) -> Message:
        """Outputs on the public set, shape ``(P, C)``."""
        return {"outputs": data.public_outputs}

    def combine(self, sent: Mapping[str, Message], *args: Any) -> Combined:
        """Their mean."""
        return Combined({"outputs": torch.stack([one["outputs"] for one in sent.values()]).mean(0)})

    def example_loss(
        self, own: Any, inputs: Any, features: Tensor, outputs: Tensor, target: Tensor, on: Any, context: Context
    ) -> Tensor:
        """Squared distances from it, shape ``(B,)``."""
        assert own is None
        assert on == "public"
        return (outputs - context.received["outputs"][target]).square().sum(1)
