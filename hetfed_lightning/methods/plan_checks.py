"""A method's plan for one participant, asked and held to what can be followed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from hetfed_lightning.methods.plans import Moment, Part, PlanError

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant


class Planner(Protocol):
    """A method, as far as it plans."""

    @property
    def title(self) -> str:
        """Name of the method in tags and messages."""

    def plan(self, participant: Participant, moment: Moment, round_index: int) -> Sequence[Part]:
        """Parts of a participant's work in a round, one after another."""


def planned(method: Planner, participant: Participant, moment: Moment, round_index: int) -> tuple[Part, ...]:
    """A method's plan for one participant, checked.

    Args:
        method: The method that plans.
        participant: The participant.
        moment: When the parts are worked on.
        round_index: The round.

    Raises:
        PlanError: If it cannot be followed; names the participant, the round and the method.
    """
    found: Any = method.plan(participant, moment, round_index)
    where = f"{participant.label}, round {round_index}: {method.title}.plan for the moment {moment!r}"
    if not isinstance(found, Sequence) or not all(isinstance(part, Part) for part in found):
        raise PlanError(f"{where}: expected Parts in a list, got {found!r}. Return [Part(epochs=1)], or () for none.")
    keys = [key for key, _ in participant.named_parameters()] if found else []
    for part in found:
        _check(part, participant, moment, keys, where)
    return tuple(found)


def _check(part: Part, participant: Participant, moment: Moment, keys: Sequence[str], where: str) -> None:
    if part.on != "own":
        raise PlanError(f"{where}: got Part(on={part.on!r}); such steps are not built yet. Plan steps on own data.")
    if moment != "local" and participant.privacy is not None:
        raise PlanError(
            f"{where}: it trains with DP-SGD, whose account is of local steps alone. Plan for the moment 'local', or "
            "return () for it."
        )
    if part.optimizer is None and part.trains_everything:
        return
    if not participant.automatic_optimization:
        raise PlanError(
            f"{where}: it steps its optimizers itself, so that Part(trains=..., optimizer=...) cannot be heeded. Give "
            "lengths alone, or leave automatic_optimization on."
        )
    try:
        trained = part.keys(keys)
    except ValueError as error:
        raise PlanError(f"{where}: Part(trains=...): {error}. Name a module, a key or an fnmatch pattern.") from None
    if not trained:
        raise PlanError(f"{where}: Part(trains={part.trains!r}) leaves nothing to train. Exclude less.")
