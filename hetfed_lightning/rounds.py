"""A round in one place: what happens in which order, and the callback events it raises.

A round is a Lightning epoch. Its local steps run in ``Federation.training_step``; everything that participants
do *together* happens in the callbacks of this file's events:

1. ``on_round_start``: newcomers receive the shared state, anchors and snapshots are taken; ``on_join`` for newcomers;
   fleets are seated.
2. local steps, each of which may add terms to its loss by ``local_loss`` (in a fleet, by ``fleet_term``).
3. ``on_round_end`` at the last ``on_train_batch_end``, by :class:`Phase`: distillation, then averaging, then
   monitoring. Participants whose state is not finite are left out before each phase.

Lightning validates after that and before ``on_train_epoch_end``; a round that ended in the latter would measure
other models than it saves.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

import lightning as L

from hetfed_lightning.checkpointing.forgotten import ForgottenState
from hetfed_lightning.inspection import inspect
from hetfed_lightning.participant import STUDENT
from hetfed_lightning.preemption import set_exit_code
from hetfed_lightning.private_steps import end_if_spent, open_budgets
from hetfed_lightning.seeding import seed_all, stream_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from hetfed_lightning.federation import Federation
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.terms import FleetTerm
    from hetfed_lightning.participant import Participant, Stage


class Phase(IntEnum):
    """When in a round's start or end a callback acts; equal phases keep the order of ``Trainer(callbacks=...)``."""

    GUARD = 0
    DISTILLATION = 10
    AVERAGING = 20
    MONITORING = 90


@dataclass(frozen=True)
class Career:
    """The rounds of a run that a participant trains in.

    Attributes:
        joins_at: The round in which it joins, from 0.
        rounds: Those that it is expected to train in, in their order.
    """

    joins_at: int
    rounds: Sequence[int]


class FederatedCallback(L.Callback):
    """A Lightning callback that also hears a round's events.

    What an event draws from torch, ``random`` or NumPy depends on (seed, event, class of the callback, round) alone: it
    is the same on every rank and after a resume. Two callbacks of one class draw different numbers. Where a process
    draws for some participants and not for others, as for those that it hosts, ranks draw different ones all the same:
    draw for all of them, or from :func:`hetfed_lightning.seeding.stream_generator` by their names.

    What it has to remember from round to round goes into ``state_dict`` and comes back by ``load_state_dict``, as with
    any callback of Lightning's. One that holds tensors which change, and saves nothing, is warned of by name when the
    first checkpoint is written.
    """

    phase: ClassVar[Phase] = Phase.MONITORING

    gives_finite: ClassVar[bool] = False
    """Whether ``on_round_end`` vouches that what it puts into participants is finite; if not, they are looked at."""

    def prepare(self, trainer: L.Trainer, federation: Federation) -> None:
        """Before training, once the data is known to fit: refuse what cannot work, find who does what with whom."""

    def on_round_start(self, trainer: L.Trainer, federation: Federation, round_index: int) -> None:
        """Before the first local step of a round."""

    def on_join(self, trainer: L.Trainer, federation: Federation, names: Sequence[str], round_index: int) -> None:
        """Once newcomers have received what is shared, before their first local step."""

    def on_round_resume(self, trainer: L.Trainer, federation: Federation, round_index: int) -> None:
        """Instead of ``on_round_start`` when a checkpoint taken inside the round is resumed."""

    def adds_to_loss(self, federation: Federation) -> bool:
        """Whether :meth:`local_loss` may add something in this round."""
        del federation
        return type(self).local_loss is not FederatedCallback.local_loss

    def local_loss(self, federation: Federation, participant: Participant, batch_idx: int) -> Tensor | None:
        """A scalar to add to the loss of this local step, or None.

        Where it is overridden and :meth:`fleet_term` is not, everyone trains one after another.
        """

    def fleet_term(self, federation: Federation, fleet: Fleet) -> FleetTerm | None:
        """What :meth:`local_loss` adds in this round, for a fleet's members at once; None if it is nothing.

        Asked for as a round opens or is resumed, of callbacks that add to the loss.
        """

    def further_steps(self, federation: Federation, name: str, career: Career) -> int:
        """Steps that a participant takes by its own optimizer beside its local ones, for what plans by their number.

        Args:
            federation: Before training, its data set up.
            name: A participant, or the student.
            career: The rounds that it trains in.
        """
        del federation, name, career
        return 0

    def on_round_end(self, trainer: L.Trainer, federation: Federation, round_index: int) -> None:
        """After the last local step of a round, before validation."""

    def on_metrics(self, trainer: L.Trainer, federation: Federation, stage: Stage, values: Mapping[str, float]) -> None:
        """When the participants' figures of a stage have been reduced, by tag."""


class RoundClock(L.Callback):
    """Turns Lightning's batch hooks into round events. Every federation brings its own.

    As a callback, and not a hook of the module, it runs before ``ModelCheckpoint``, so that a checkpoint taken at
    the last batch holds the models after the round.
    """

    def __init__(self) -> None:
        self._drawn: dict[int, frozenset[str]] = {}
        self._forgotten = ForgottenState()

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Look at what callbacks hold as the first round is about to begin."""
        del pl_module
        self._forgotten.begin(federated_callbacks(trainer))

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Warn of callbacks whose tensors no checkpoint holds."""
        del trainer, checkpoint
        self._forgotten.look(pl_module)

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Forget who was drawn in an earlier run."""
        del trainer, pl_module, stage
        self._drawn = {}

    def callbacks_of(self, trainer: L.Trainer) -> list[FederatedCallback]:
        """Those that act between participants."""
        return federated_callbacks(trainer)

    def career_of(self, federation: Federation, name: str) -> Career:
        """The rounds that a participant, or the student, trains in; of a run that knows its number of rounds."""
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
        """End worker processes at once; let the exit code say what a signal ended."""
        del trainer
        set_exit_code(exception)
        pl_module.close_loader()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Open a round at its first batch; take up one that a checkpoint was made in."""
        del batch
        federation: Federation = pl_module
        if federation.round_is_open:
            return
        round_index = federation.current_round
        resumed = batch_idx > 0
        open_budgets(federation, round_index, batch_idx)
        federation.open_round(round_index, resumed=resumed)
        raise_event(federation, "on_round_resume" if resumed else "on_round_start", round_index, round_index)
        if not resumed and (newcomers := federation.newcomers(round_index)):
            raise_event(federation, "on_join", round_index, newcomers, round_index)
        federation.adding = [one for one in federated_callbacks(trainer) if one.adds_to_loss(federation)]
        federation.fleets.open_round(federation, federation.trained_here(round_index))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Close the round at its last batch."""
        del outputs, batch, batch_idx
        if not trainer.is_last_batch:
            return
        federation: Federation = pl_module
        federation.finish_local_work()
        federation.ranks.synchronise(federation.active_names(federation.current_round))
        inspect(federation, losses=True)

        def look(callback: FederatedCallback) -> None:
            if callback.phase < Phase.MONITORING and not callback.gives_finite:
                inspect(federation)

        round_index = federation.current_round
        raise_event(federation, "on_round_end", round_index, round_index, after=look)
        federation.close_round()
        end_if_spent(trainer, federation)


def federated_callbacks(trainer: L.Trainer) -> list[FederatedCallback]:
    """The trainer's federated callbacks in the order in which a round calls them."""
    found = [callback for callback in trainer.callbacks if isinstance(callback, FederatedCallback)]  # type: ignore[attr-defined]
    return sorted(found, key=lambda callback: callback.phase)


def raise_event(
    federation: Federation,
    event: str,
    round_index: int,
    *args: Any,
    part: str = "",
    after: Callable[[FederatedCallback], None] | None = None,
) -> None:
    """Call an event of every federated callback, each under a seed that event, class and round name.

    Args:
        federation: In a run.
        event: A method of :class:`FederatedCallback`.
        round_index: The round.
        args: Handed on after trainer and federation.
        part: Tells events of one name in one round apart.
        after: Called with each callback once it has heard the event.
    """
    trainer, kinds = federation.trainer, Counter[str]()
    for callback in federated_callbacks(trainer):
        kind = type(callback).__qualname__
        if getattr(type(callback), event) is not getattr(FederatedCallback, event) or event in vars(callback):
            seed = stream_seed(federation.seed, event, part, kind, kinds[kind], round_index)
            seed_all(seed, federation.device)
        kinds[kind] += 1
        getattr(callback, event)(trainer, federation, *args)
        if after is not None:
            after(callback)
