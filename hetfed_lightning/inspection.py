"""Who may go on with a round: participants whose weights and losses are finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetfed_lightning.guard import names_of_non_finite
from hetfed_lightning.ledger import tag
from hetfed_lightning.participant import STUDENT

if TYPE_CHECKING:
    from hetfed_lightning.federation import Federation


def inspect(federation: Federation, *, losses: bool = False) -> None:
    """Take participants out of the round whose weights are not finite.

    Args:
        federation: In a round.
        losses: Whether to look at the losses of the local steps as well.

    Raises:
        RuntimeError: If nobody is left.
    """
    looked_at = [*federation.contributors(), *([] if federation.student is None else [STUDENT])]
    views = federation.fleets.views(federation, looked_at)
    for name in names_of_non_finite({name: state.values() for name, state in views.items()}):
        federation.quarantine(name, "its weights are not finite")
    if losses:
        noted = federation.logbook.ledgers["train"].noted
        found = names_of_non_finite({name: noted(tag("train_loss", name)) for name in federation.contributors()})
        for name in federation.ranks.agreed(found):
            federation.quarantine(name, "its loss is not finite")
    active = federation.active_names(federation.current_round)
    if active and not federation.contributors():
        reasons = "; ".join(f"{name}: {reason}" for name, reason in federation.guard.quarantined.items())
        raise RuntimeError(
            f"Round {federation.current_round}: no participant is left to go on with ({reasons}). "
            "Lower the learning rates or set gradient_clip_val, and look at the data of those named."
        )
