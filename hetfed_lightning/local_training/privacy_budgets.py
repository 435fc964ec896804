"""Private steps of all participants of a run: set-up, remaining budgets, and epsilons."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hetfed_lightning.local_training.dpsgd_steps import PrivacyBudgetError, PrivateSteps

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.local_training.local_optimization import LocalOptimization
    from hetfed_lightning.participants.participant import Participant

log = logging.getLogger(__name__)


def give_privacy(federation: FederationView) -> None:
    """Set up private steps for participants with ``privacy``, once the data is checked."""
    for name, participant in federation.members().items():
        if participant.privacy is not None:
            federation.local[name].private = PrivateSteps(participant, federation.federated_data.source(name))


def open_budgets(federation: FederationView, round_index: int, done: int) -> None:
    """Allow the steps of a round that begins or resumes, if all privacy budgets suffice.

    Args:
        federation: The federation before the round.
        round_index: Index of the round, from 0.
        done: Batches of the round trained before a resume.

    Raises:
        PrivacyBudgetError: If one does not; names the participant, the round and the epsilons, before anyone's step.
    """
    for name in federation.trained_here(round_index):
        own = federation.local[name].private
        if own is None:
            continue
        steps = max(0, federation.train_loader().steps_of(name, round_index) - done)
        if reason := own.objection(steps):
            raise PrivacyBudgetError(f"Round {round_index}: {federation[name].label} takes no step: {reason}.")
        own.allow(steps)


def end_if_spent(trainer: L.Trainer, federation: FederationView) -> None:
    """End training after a round if a privacy budget does not allow the next one; logs whose.

    Args:
        trainer: Trainer at the round's last batch.
        federation: The federation.
    """
    following = federation.current_round + 1
    if following >= (trainer.max_epochs or 0) > 0:
        return
    for name in federation.trained_here(following):
        own = federation.local[name].private
        reason = "" if own is None else own.objection(federation.train_loader().steps_of(name, following))
        if reason:
            log.warning("Training ends after round %d: %s: %s.", following - 1, federation[name].label, reason)
            trainer.should_stop = True


def epsilons(participants: Mapping[str, Participant]) -> dict[str, float]:
    """Epsilon of each private participant's examples so far, by tag."""
    return {
        f"epsilon/{name}": participant.ledger.epsilon(participant.privacy.delta)
        for name, participant in participants.items()
        if participant.privacy is not None
    }


def saved_accounts(local: Mapping[str, LocalOptimization]) -> dict[str, list[list[float]]]:
    """Privacy accounts by participant, for a checkpoint."""
    return {name: own.participant.ledger.state() for name, own in local.items() if own.participant.privacy is not None}
