"""Quarantine of participants with non-finite weights or losses, and the quorum of a round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetfed_lightning.finite import LARGEST, names_beyond, names_of_non_finite, why_unusable
from hetfed_lightning.logs.metric_store import tag
from hetfed_lightning.participants.participant import STUDENT

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView


class TooFewParticipantsError(RuntimeError):
    """Raised for a round with fewer participants left than ``Federation(min_participants=...)``."""


def inspect(federation: FederationView, *, losses: bool = False, after: str = "") -> None:
    """Quarantine participants with non-finite or too large weights, and check the quorum.

    Args:
        federation: The federation, in a round.
        losses: True to check the losses of the local steps as well.
        after: Callback that has just written to them, for the log; empty for the local steps.

    Raises:
        TooFewParticipantsError: If too few are left.
    """
    quarantine_non_finite(federation, losses=losses, after=after)
    active, left = federation.active_names(federation.current_round), federation.contributors()
    if active and len(left) < federation.min_participants:
        raise TooFewParticipantsError(_too_few(federation, len(left), len(active)))


def quarantine_non_finite(federation: FederationView, *, losses: bool = False, after: str = "") -> None:
    """Quarantine participants with non-finite or too large weights, without a check of the quorum.

    Args:
        federation: The federation, in a round.
        losses: True to check the losses of the local steps as well.
        after: Callback that has just written to them, for the log; empty for the local steps.
    """
    looked_at = [*federation.contributors(), *([] if federation.student is None else [STUDENT])]
    views = federation.fleets.views(federation, looked_at)
    everyone = federation.everyone()
    for name in names_beyond({name: state.values() for name, state in views.items()}, LARGEST):
        if reason := why_unusable(views[name], {key for key, _ in everyone[name].named_parameters()}):
            reason += f" after {after}" if after else ""
            federation.quarantine(name, reason)
    if losses:
        noted = federation.logbook.ledgers["train"].noted
        found = names_of_non_finite({name: noted(tag("train_loss", name)) for name in federation.contributors()})
        for name in federation.ranks.agreed(found):
            federation.quarantine(name, "its loss is not finite")


def _too_few(federation: FederationView, left: int, active: int) -> str:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in federation.guard.quarantined.items())
    found = "no participant is" if left == 0 else f"{left} of {active} participants {'is' if left == 1 else 'are'}"
    needed = "" if federation.min_participants == 1 else f", min_participants={federation.min_participants} are needed"
    return (
        f"Round {federation.current_round}: {found} left to go on with{needed} ({reasons}). "
        "Lower the learning rates or set gradient_clip_val, and look at the data of those named."
    )
