"""A method's plan for one participant, asked, held to what can be followed, and cut to the data that there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from hetfed_lightning.methods.hook_results import naming
from hetfed_lightning.methods.plans import Moment, Part, PlanError
from hetfed_lightning.participants.participant import STUDENT

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.participants.participant import Participant


class Planner(Protocol):
    """A method, as far as it plans."""

    @property
    def title(self) -> str:
        """Name of the method in tags and messages."""

    def plan(self, participant: Participant, moment: Moment, round_index: int) -> Sequence[Part]:
        """Parts of a participant's work in a round, one after another."""

    def has_example_loss(self) -> bool:
        """True if the method has an ``example_loss``."""


def planned(
    federation: FederationView, method: Planner, name: str, moment: Moment, round_index: int
) -> tuple[Part, ...]:
    """A method's plan for one participant, checked.

    A participant that reads no input of the public set abstains: parts on it are left out, and those on both are on
    its own data. The student has no data of its own: only its parts on public data are left.

    Args:
        federation: The federation, in a fit.
        method: The method that plans.
        name: Name of the participant, or of the student.
        moment: When the parts are worked on.
        round_index: The round.

    Raises:
        PlanError: If it cannot be followed; names the participant, the round and the method.
    """
    participant = federation[name]
    where = f"{participant.label}, round {round_index}: {method.title}.plan for the moment {moment!r}"
    with naming(where):
        found: Any = method.plan(participant, moment, round_index)
    if not isinstance(found, Sequence) or not all(isinstance(part, Part) for part in found):
        raise PlanError(f"{where}: expected Parts in a list, got {found!r}. Return [Part(epochs=1)], or () for none.")
    parts = [part for part in found if part.on == "public"] if name == STUDENT else list(found)
    if any(part.on != "own" for part in parts):
        _check_public(federation, method, where)
        if not federation.plans.reads_public(federation, name):
            parts = _without_public(parts)
    for part in parts:
        _check(part, participant, moment, where)
    return tuple(parts)


def _without_public(parts: Sequence[Part]) -> list[Part]:
    own = [part for part in parts if part.on != "public" and not part.goes_along]
    return [replace(part, on="own") for part in own]


def _check_public(federation: FederationView, method: Planner, where: str) -> None:
    if federation.federated_data.num_public == 0:
        raise PlanError(
            f"{where}: {type(method).__name__} needs a public set, and the data module has none: give "
            "FederatedDataModule(public=...) (public_size in the built-in data modules)."
        )
    if not method.has_example_loss():
        raise PlanError(
            f"{where}: it has steps on public data, and {type(method).__name__} has no example_loss that gives them a "
            'loss. Write example_loss for on="public", or plan steps on own data.'
        )


def _check(part: Part, participant: Participant, moment: Moment, where: str) -> None:
    if part.goes_along and moment != "local":
        raise PlanError(
            f"{where}: Part(on='both') without epochs and steps goes along with local steps, and there are none at "
            "that moment. Give epochs or steps."
        )
    if participant.privacy is not None:
        _check_private(part, moment, where)
    if moment == "local" and part.on != "own" and not participant.automatic_optimization and not part.goes_along:
        raise PlanError(
            f"{where}: it steps its optimizers itself in training_step, so that a public batch cannot have a part in "
            "its local steps. Plan Part(on='public') for the moment 'received', or leave automatic_optimization on."
        )
    if part.optimizer is None and part.trains_everything:
        return
    if not participant.automatic_optimization and part.on != "public":
        raise PlanError(
            f"{where}: it steps its optimizers itself, so that Part(trains=..., optimizer=...) cannot be heeded. Give "
            "lengths alone, or leave automatic_optimization on."
        )
    try:
        trained = part.keys([key for key, _ in participant.named_parameters()])
    except ValueError as error:
        raise PlanError(f"{where}: Part(trains=...): {error}. Name a module, a key or an fnmatch pattern.") from None
    if not trained:
        raise PlanError(f"{where}: Part(trains={part.trains!r}) leaves nothing to train. Exclude less.")


def _check_private(part: Part, moment: Moment, where: str) -> None:
    """Refuse steps of which DP-SGD cannot tell the own examples' share, or count them among the local ones."""
    if part.on == "both":
        raise PlanError(
            f"{where}: Part(on='both') adds to its loss what is no mean over its own examples, and it trains with "
            "DP-SGD. Plan Part(on='public') for the moment 'received'."
        )
    if moment == "local" and part.on == "public":
        raise PlanError(
            f"{where}: Part(on='public') is among the local steps, all of which the account of DP-SGD counts. Plan it "
            "for the moment 'received'."
        )
