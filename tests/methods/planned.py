"""A method that only plans, for tests."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hetfed_lightning import Participant
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
