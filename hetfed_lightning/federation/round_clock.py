"""Order of a round, and the callback events that it raises.

A round is a Lightning epoch. Its local steps run in ``Federation.training_step``. Everything that participants do
*together* happens in events of federated callbacks (:mod:`hetfed_lightning.federated_callback`):

1. ``on_round_start``: newcomers receive the shared state, anchors are set; methods make the exchange due at a round's
   start; snapshots are taken; ``on_join`` for newcomers; fleets are formed.
2. Local steps, whose losses may have terms from ``local_loss`` (in a fleet, from ``fleet_term``).
3. ``on_round_end`` at the last ``on_train_batch_end``, by :class:`Phase`: distillation, then averaging, then
   monitoring. Participants with non-finite states are quarantined before each phase. Messages of methods are collected
   and combined as their phase begins, before any result is handed out.

Lightning validates after that and before ``on_train_epoch_end``. If the round ended in the latter, other models would
be validated than saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import lightning as L

from hetfed_lightning.checkpointing.forgotten import ForgottenState
from hetfed_lightning.federated_callback import Career, FederatedCallback, Phase, federated_callbacks, raise_event
from hetfed_lightning.federation.preemption import set_exit_code
from hetfed_lightning.federation.preflight_privacy import check_shaped_losses
from hetfed_lightning.federation.quarantine import inspect
from hetfed_lightning.federation_view import FederationView
from hetfed_lightning.local_training.privacy_budgets import end_if_spent, open_budgets
from hetfed_lightning.methods.exchanging import RoundExchange
from hetfed_lightning.methods.method import Method
from hetfed_lightning.participants.participant import STUDENT


class HasRounds(FederationView, Protocol):
    """Interface of a federation to the clock of its rounds.

    Attributes:
        adding: Callbacks that add to the local losses of the round.
        shaping: Callbacks that change the local losses of the round by example.
    """

    @property
    def round_is_open(self) -> bool:
        """True between the opening of a round and its end."""

    def open_round(self, round_index: int, *, resumed: bool = False) -> None:
        """Begin a round, or resume it.

        Args:
            round_index: Index of the round, from 0.
            resumed: True if the round resumes from a checkpoint inside it.
        """

    def hear(self, callbacks: Iterable[FederatedCallback]) -> None:
        """Let those callbacks that add to losses, or shape them, be asked in the steps that follow."""

    def finish_local_work(self) -> None:
        """Step on the gradients of incomplete accumulations."""

    def close_round(self) -> None:
        """Log the metrics of the round."""


class RoundClock(L.Callback):
    """Callback that turns Lightning's batch hooks into round events; each federation brings its own.

    As a callback, and not a hook of the module, it runs before ``ModelCheckpoint``: a checkpoint taken at the last
    batch holds the models after the round.
    """

    def __init__(self) -> None:
        self._drawn: dict[int, frozenset[str]] = {}
        self._forgotten = ForgottenState(Method)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Find the tensors that callbacks hold before the first round."""
        del pl_module
        self._forgotten.begin(federated_callbacks(trainer))

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Warn of callbacks with changed tensors that no checkpoint holds."""
        del trainer, checkpoint
        self._forgotten.look(pl_module)

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Drop the samples of an earlier run."""
        del trainer, pl_module, stage
        self._drawn = {}

    def callbacks_of(self, trainer: L.Trainer) -> list[FederatedCallback]:
        """Federated callbacks of a trainer, in the order of their phases."""
        return federated_callbacks(trainer)

    def rounds_ahead(self, trainer: L.Trainer, round_index: int) -> Sequence[int]:
        """Rounds of a fit from ``round_index`` on, as far as their number is known; at least that one."""
        return range(round_index, max(trainer.max_epochs or 0, round_index + 1))

    def career_of(self, federation: FederationView, name: str) -> Career:
        """Rounds in which a participant, or the student, trains, for a run with a known number of rounds.

        Args:
            federation: The federation, in a fit.
            name: Name of the participant, or of the student.
        """
        last, participant = max(0, federation.trainer.max_epochs or 0), federation[name]
        if name == STUDENT:
            return Career(0, range(last))
        if federation.participation == 1:
            end = last if participant.leaves_at is None else min(last, participant.leaves_at)
            return Career(participant.joins_at, range(participant.joins_at, max(participant.joins_at, end)))
        for index in range(len(self._drawn), last):
            self._drawn[index] = frozenset(federation.active_names(index))
        return Career(participant.joins_at, [index for index in range(last) if name in self._drawn[index]])

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """End worker processes at once, and set the exit code of a run ended by a signal."""
        del trainer
        set_exit_code(exception)
        pl_module.close_loader()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Open a round at its first batch, or resume one that a checkpoint was taken in."""
        del batch
        federation: HasRounds = pl_module
        if federation.round_is_open:
            return
        round_index, resumed = federation.current_round, batch_idx > 0
        self.allow(federation, round_index, batch_idx)
        federation.open_round(round_index, resumed=resumed)
        self.meet(trainer, federation, round_index, resumed=resumed)
        federation.hear(self.callbacks_of(trainer))
        check_shaped_losses(federation)
        federation.fleets.open_round(federation, federation.trained_here(round_index))

    def allow(self, federation: HasRounds, round_index: int, batch_idx: int) -> None:
        """Refuse a round that a privacy budget does not allow.

        Args:
            federation: The federation, between two rounds.
            round_index: Index of the round, from 0.
            batch_idx: Index of its first batch in this process.

        Raises:
            PrivacyBudgetError: If it is not allowed; names the participant.
        """
        open_budgets(federation, round_index, batch_idx)

    def meet(self, trainer: L.Trainer, federation: HasRounds, round_index: int, *, resumed: bool) -> None:
        """Do all that participants do together before their local steps.

        Args:
            trainer: Trainer of the fit.
            federation: The federation, in the round.
            round_index: Index of the round, from 0.
            resumed: True for what is left of a round that was interrupted.
        """
        if resumed:
            raise_event(federation, "on_round_resume", round_index, round_index)
        else:
            exchange = RoundExchange(federation, "start")
            raise_event(federation, "on_round_start", round_index, round_index, before=exchange.before)
            exchange.make()
        if not resumed and (newcomers := federation.newcomers(round_index)):
            federation.hear(federated_callbacks(trainer))  # Not those of the round before: a resumed run had none.
            raise_event(federation, "on_join", round_index, newcomers, round_index)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Close the round at its last batch."""
        del outputs, batch, batch_idx
        if not trainer.is_last_batch:
            return
        federation: HasRounds = pl_module
        federation.finish_local_work()
        self.part(trainer, federation, federation.current_round)

    def part(self, trainer: L.Trainer, federation: HasRounds, round_index: int) -> None:
        """Do all that participants do together after their local steps, up to the close of the round.

        Args:
            trainer: Trainer of the fit.
            federation: The federation, in the round.
            round_index: Index of the round, from 0.
        """
        federation.ranks.synchronise(federation.active_names(round_index))
        inspect(federation, losses=True)

        def look(callback: FederatedCallback) -> None:
            exchange.after(callback)
            writes = isinstance(callback, Method) and (callback.plans_work() or callback.takes_over())
            if callback.phase < Phase.MONITORING and (writes or not callback.gives_finite):
                inspect(federation, after=callback.title if isinstance(callback, Method) else type(callback).__name__)

        exchange = RoundExchange(federation, "end")
        raise_event(federation, "on_round_end", round_index, round_index, before=exchange.before, after=look)
        federation.close_round()
        end_if_spent(trainer, federation)
