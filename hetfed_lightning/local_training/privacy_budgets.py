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
    """Allow the steps of a round that begins or resumes, if all privacy budgets suffice for those of all its moments.

    Args:
        federation: The federation before the round.
        round_index: Index of the round, from 0.
        done: Batches of the round trained before a resume.

    Raises:
        PrivacyBudgetError: If one does not; names the participant, the round and the epsilons, before anyone's step.
    """
    for name, own in _private(federation, round_index):
        steps = _steps_in(federation, name, round_index, done)
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
    for name, own in _private(federation, following):
        if reason := own.objection(_steps_in(federation, name, following)):
            log.warning("Training ends after round %d: %s: %s.", following - 1, federation[name].label, reason)
            trainer.should_stop = True


def _private(federation: FederationView, round_index: int) -> list[tuple[str, PrivateSteps]]:
    """Participants of a round, sampled or not, that train here with DP-SGD: at its other moments all may have work."""
    here = [name for name in federation.joined(round_index) if federation.ranks.hosts(name)]
    return [(name, own) for name in here if (own := federation.local[name].private) is not None]


def _steps_in(federation: FederationView, name: str, round_index: int, done: int = 0) -> int:
    """Number of a participant's private steps in a round, local ones and those of its plans' other moments."""
    is_active = name in federation.active_names(round_index)
    local = federation.train_loader().steps_of(name, round_index) if is_active else 0
    return max(0, local - done) + federation.plans.later_steps(federation, name, round_index, resumed=done > 0)


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
