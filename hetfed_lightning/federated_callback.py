"""A callback that acts between participants, the events of a round that it hears, and in which order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

import lightning as L

from hetfed_lightning.seeding import seed_all, stream_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from hetfed_lightning.federation.federation import Federation
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.shaping import LossShape
    from hetfed_lightning.fleets.terms import FleetTerm
    from hetfed_lightning.participants.participant import Participant, Stage
    from hetfed_lightning.supervised import Supervised


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

    def loss_is_of_weights(self) -> bool:
        """True if :meth:`local_loss` depends on weights alone, not on examples.

        Under DP-SGD its gradient is then added after the noise; any other term is refused there.
        """
        return False

    def fleet_term(self, federation: Federation, fleet: Fleet) -> FleetTerm | None:
        """What :meth:`local_loss` adds in this round, for a fleet's members at once; None if it is nothing.

        Asked for as a round opens or is resumed, of callbacks that add to the loss.
        """

    def shapes_loss(self) -> bool:
        """True if :meth:`shaped_losses` is to be called."""
        return False

    def shaped_losses(
        self, federation: Federation, participant: Participant, losses: Tensor, batch: Supervised
    ) -> Tensor:
        """Loss of each example of a local step, shape ``(B,)``, in the place of ``losses``.

        Args:
            federation: In a round.
            participant: Whose step it is.
            losses: Of the task, or of the callback before, shape ``(B,)``.
            batch: The examples with features and outputs.
        """
        del federation, participant, batch
        return losses

    def fleet_shape(self, federation: Federation, fleet: Fleet) -> LossShape | None:
        """:meth:`shaped_losses` in this round, for a fleet's members at once; None where it changes nothing.

        Where :meth:`shaped_losses` is overridden and this is not, everyone trains one after another.
        """

    def follows_steps(self) -> bool:
        """True if :meth:`after_local_step` is to be called; everyone then trains one after another."""
        return False

    def after_local_step(self, federation: Federation, participant: Participant) -> None:
        """After an optimizer step of a participant that changed its weights, local or in a distillation phase.

        Args:
            federation: In a round.
            participant: The one that has stepped; its weights may be changed in place.
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


def federated_callbacks(trainer: L.Trainer) -> list[FederatedCallback]:
    """The trainer's federated callbacks in the order in which a round calls them."""
    found = [callback for callback in trainer.callbacks if isinstance(callback, FederatedCallback)]  # type: ignore[attr-defined]
    return sorted(found, key=lambda callback: callback.phase)


def acting_callbacks(trainer: L.Trainer) -> list[FederatedCallback]:
    """Callbacks that act in local steps: the trainer's, and those that one of its callbacks represents at a site."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    represented = [one for callback in callbacks for one in getattr(callback, "represented", ())]
    return [*federated_callbacks(trainer), *represented]


def raise_event(
    federation: Federation,
    event: str,
    round_index: int,
    *args: Any,
    part: str = "",
    before: Callable[[FederatedCallback], None] | None = None,
    after: Callable[[FederatedCallback], None] | None = None,
) -> None:
    """Call an event of every federated callback, each under a seed that event, class and round name.

    Args:
        federation: In a run.
        event: A method of :class:`FederatedCallback`.
        round_index: The round.
        args: Handed on after trainer and federation.
        part: Tells events of one name in one round apart.
        before: Called with each callback before it hears the event, and before its seed is set.
        after: Called with each callback once it has heard the event.
    """
    trainer, kinds = federation.trainer, Counter[str]()
    for callback in federated_callbacks(trainer):
        kind = type(callback).__qualname__
        if before is not None:
            before(callback)
        if getattr(type(callback), event) is not getattr(FederatedCallback, event) or event in vars(callback):
            seed = stream_seed(federation.seed, event, part, kind, kinds[kind], round_index)
            seed_all(seed, federation.device)
        kinds[kind] += 1
        getattr(callback, event)(trainer, federation, *args)
        if after is not None:
            after(callback)
