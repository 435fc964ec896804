"""Trainer as a participant sees it, with lengths of rounds and run that are the participant's own."""

from __future__ import annotations

import math
from itertools import count
from typing import TYPE_CHECKING, Any

from hetfed_lightning.federated_callback import Career
from hetfed_lightning.federation.log_writer import is_fitting
from hetfed_lightning.federation.preflight import check_names
from hetfed_lightning.federation.round_clock import RoundClock
from hetfed_lightning.participants.participant import STUDENT

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.federation_view import FederationView


class OwnTrainer:
    """Proxy of a federation's Trainer, which is ``self.trainer`` of a participant.

    In a fit, ``num_training_batches``, ``is_last_batch`` and ``estimated_stepping_batches`` count the participant's own
    batches and optimizer steps. All other attributes are read from and written to the Trainer.

    Args:
        trainer: Trainer of the federation.
        federation: The federation.
        name: Name of the participant.
    """

    def __init__(self, trainer: L.Trainer, federation: FederationView, name: str) -> None:
        object.__setattr__(self, "_whose", (trainer, federation, name))

    @property  # type: ignore[misc]  # to isinstance it is a Trainer
    def __class__(self) -> Any:
        return type(self._whose[0])

    def __getattr__(self, key: str) -> Any:
        if key == "_whose":  # Of a copy that has not been made yet.
            raise AttributeError(key)
        return getattr(self._whose[0], key)

    def __setattr__(self, key: str, value: Any) -> None:
        setattr(self._whose[0], key, value)

    @property
    def num_training_batches(self) -> int | float:
        """Number of batches of the participant in a round in which it trains."""
        trainer, federation, name = self._whose
        return batches_in_round(federation, name) if is_fitting(trainer) else trainer.num_training_batches

    @property
    def is_last_batch(self) -> bool:
        """True if the current batch is the participant's last one in this round, or after it."""
        trainer, federation, name = self._whose
        if not is_fitting(trainer):
            return bool(trainer.is_last_batch)
        return bool(federation.batches_done >= batches_in_round(federation, name))

    @property
    def estimated_stepping_batches(self) -> int | float:
        """Number of optimizer steps of the participant over the run, with those of distillation by its own optimizer.

        Rounds in which it is not sampled or not a member do not count. Between institutions a site does not know its
        samples, so all rounds from its first to its last count. Steps skipped by fp16's loss scale and rounds in
        quarantine are not foreseen.
        """
        _, federation, name = self._whose
        return steps_over_run(federation, name)


def batches_in_round(federation: FederationView, name: str, round_index: int | None = None) -> int:
    """Number of a participant's batches in a round, after the Trainer's limit; 0 for the student, which has no data.

    Args:
        federation: The federation, in a fit.
        name: Name of a participant, or of the student.
        round_index: Index of the round; None for the current one, or the participant's first if it has yet to join.
    """
    if name == STUDENT:
        return 0
    if round_index is None:
        round_index = max(federation.current_round, federation[name].joins_at)
    check_names(federation.members(), federation.federated_data)
    source = federation.federated_data.source(name)
    return federation.limit_batches(federation.work_of(name, round_index).batches(source))


def own_steps(federation: FederationView, name: str, round_index: int, most: int | None = None) -> int:
    """Number of a participant's local steps in a round by its own optimizer.

    Args:
        federation: The federation, in a fit.
        name: Name of a participant, or of the student.
        round_index: Index of the round, from 0.
        most: Number of batches after which the run ends without a step on an incomplete accumulation; None if it does
            not end inside the round.
    """
    accumulated = federation[name].accumulate_grad_batches
    batches = batches_in_round(federation, name, round_index)
    parts = () if name == STUDENT else federation.plans.spans_of(federation, name, round_index)
    if not parts:
        return math.ceil(batches / accumulated) if most is None else min(batches, most) // accumulated
    steps = 0
    for one in parts:
        if one.part.optimizer is None:
            end = one.stop if most is None else min(one.stop, most)
            waiting = (end - one.start) / accumulated
            steps += max(0, math.ceil(waiting) if end == one.stop else math.floor(waiting))
    return steps


def steps_over_run(federation: FederationView, name: str) -> int | float:
    """Number of a participant's optimizer steps in a fit; infinite if the fit has no end.

    Args:
        federation: The federation in a fit, its data set up.
        name: Name of a participant, or of the student.
    """
    trainer = federation.trainer
    clock = next(one for one in trainer.callbacks if isinstance(one, RoundClock))  # type: ignore[attr-defined]
    if trainer.max_steps != -1:
        steps, career = _until(federation, name, clock)
    elif trainer.max_epochs == -1:
        return float("inf")
    else:
        career = clock.career_of(federation, name)
        if federation.plans.is_empty:
            steps = len(career.rounds) * own_steps(federation, name, federation[name].joins_at)
        else:
            steps = sum(own_steps(federation, name, round_index) for round_index in career.rounds)
    further = (one.further_steps(federation, name, career) for one in clock.callbacks_of(trainer))
    return steps + sum(further)


def _until(federation: FederationView, name: str, clock: RoundClock) -> tuple[int, Career]:
    """Local steps of a run that ``max_steps`` may end inside a round, and the rounds that it ends."""
    trainer, plans = federation.trainer, federation.plans
    lengths = {one: batches_in_round(federation, one) for one in federation.members()}
    left, steps, whole = trainer.max_steps, 0, []
    for round_index in count() if trainer.max_epochs == -1 else range(trainer.max_epochs or 0):
        active = federation.active_names(round_index)
        if not plans.is_empty:
            lengths |= {one: batches_in_round(federation, one, round_index) for one in active}
        length = max((lengths[one] for one in active), default=1) or 1
        own = lengths[name] if name in active else 0
        # An incomplete accumulation is stepped on only at the end of a round, or of a part of a plan.
        steps += own_steps(federation, name, round_index, None if left >= length else left) if own else 0
        left -= length
        if left >= 0 and (own or name == STUDENT):
            whole.append(round_index)
        if left <= 0:
            break
    return steps, Career(clock.career_of(federation, name).joins_at, whole)
