"""Callbacks with the events of a federated round, and the order in which they hear them."""

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

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.shaping import LossShape
    from hetfed_lightning.fleets.terms import FleetTerm
    from hetfed_lightning.participants.participant import Participant, Stage
    from hetfed_lightning.supervised import Supervised


class Phase(IntEnum):
    """Place of a callback at a round's start or end; equal phases keep the order of ``Trainer(callbacks=...)``."""

    GUARD = 0
    DISTILLATION = 10
    AVERAGING = 20
    MONITORING = 90


@dataclass(frozen=True)
class Career:
    """Rounds of a run in which a participant trains.

    Attributes:
        joins_at: First round of its membership, from 0.
        rounds: Rounds in which it is expected to train, ascending.
    """

    joins_at: int
    rounds: Sequence[int]


class FederatedCallback(L.Callback):
    """Lightning callback with the events of a federated round.

    Each event is seeded: its draws from torch, ``random`` and NumPy depend on (seed, event, class of the callback,
    round) alone, equal on every rank and after a resume. Two callbacks of one class draw different numbers. A callback
    that draws for the participants of its own rank alone gets numbers that differ between ranks: draw for all
    participants, or take :func:`hetfed_lightning.seeding.stream_generator` with the participant's name.

    State that lasts from round to round belongs into ``state_dict`` and ``load_state_dict``, as in any Lightning
    callback. When the first checkpoint is written, a warning names callbacks that hold changing tensors and save none.
    """

    phase: ClassVar[Phase] = Phase.MONITORING

    gives_finite: ClassVar[bool] = False
    """True if ``on_round_end`` guarantees that all tensors it writes into participants are finite; otherwise they are
    checked."""

    def prepare(self, trainer: L.Trainer, federation: FederationView) -> None:
        """Check settings against participants and data, before training; the place to refuse what cannot work.

        Args:
            trainer: Trainer of the fit.
            federation: The federation, with data that its participants can read.
        """

    def on_round_start(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Called before the first local step of a round.

        Args:
            trainer: Trainer of the fit.
            federation: The federation.
            round_index: Index of the round, from 0.
        """

    def on_join(self, trainer: L.Trainer, federation: FederationView, names: Sequence[str], round_index: int) -> None:
        """Called before the first local step of newcomers, once they have received the shared state.

        Args:
            trainer: Trainer of the fit.
            federation: The federation.
            names: Names of the newcomers.
            round_index: Index of the round, from 0.
        """

    def on_round_resume(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Called in place of ``on_round_start`` when training resumes from a checkpoint taken inside a round.

        Args:
            trainer: Trainer of the fit.
            federation: The federation, its checkpoint loaded.
            round_index: Index of the round, from 0.
        """

    def adds_to_loss(self, federation: FederationView) -> bool:
        """True if :meth:`local_loss` may return a term in this round."""
        del federation
        return type(self).local_loss is not FederatedCallback.local_loss

    def local_loss(self, federation: FederationView, participant: Participant, batch_idx: int) -> Tensor | None:
        """Scalar to add to the loss of a local step; None for no term.

        A callback with this method and without :meth:`fleet_term` makes participants train one after another.

        Args:
            federation: The federation, in a round.
            participant: The participant that takes the step.
            batch_idx: Index of the batch in the round, from 0.
        """

    def loss_is_of_weights(self) -> bool:
        """True if :meth:`local_loss` depends on weights alone, not on examples.

        Under DP-SGD its gradient is then added after the noise; any other term is refused there.
        """
        return False

    def fleet_term(self, federation: FederationView, fleet: Fleet) -> FleetTerm | None:
        """The term of :meth:`local_loss` for all members of a fleet; None if there is none in this round.

        It is asked for when a round opens or resumes, of callbacks whose :meth:`adds_to_loss` is True.

        Args:
            federation: The federation, in a round.
            fleet: Participants of one architecture, trained as one batched computation.
        """

    def shapes_loss(self) -> bool:
        """True if :meth:`shaped_losses` is to be called."""
        return False

    def shaped_losses(
        self, federation: FederationView, participant: Participant, losses: Tensor, batch: Supervised
    ) -> Tensor:
        """Loss of each example of a local step, shape ``(B,)``; it replaces ``losses``.

        Args:
            federation: The federation, in a round.
            participant: The participant that takes the step.
            losses: Loss of each example, shape ``(B,)``, from the task or from the callback before.
            batch: Inputs, features, outputs and target of the B examples.
        """
        del federation, participant, batch
        return losses

    def fleet_shape(self, federation: FederationView, fleet: Fleet) -> LossShape | None:
        """Function of the fleet's losses that equals :meth:`shaped_losses`; None if nothing changes in this round.

        A callback with :meth:`shaped_losses` and without this method makes participants train one after another.

        Args:
            federation: The federation, in a round.
            fleet: Participants of one architecture, trained as one batched computation.
        """

    def follows_steps(self) -> bool:
        """True if :meth:`after_local_step` is to be called.

        Participants then train one after another, unless :meth:`follows_fleets` says otherwise.
        """
        return False

    def follows_fleets(self) -> bool:
        """True if :meth:`after_local_step` may be called for each member of a fleet once all have stepped.

        Gradients are not in ``Parameter.grad`` then, and weights are views of the fleet's, to be changed in place.
        """
        return False

    def after_local_step(self, federation: FederationView, participant: Participant) -> None:
        """Called after each optimizer step that changed a participant's weights, local or in a distillation phase.

        Args:
            federation: The federation, in a round.
            participant: The participant that took the step; its weights may be changed in place.
        """

    def gives_answers(self) -> bool:
        """True if the callback answers for participants in evaluation; fleets are then evaluated one after another."""
        return False

    def further_steps(self, federation: FederationView, name: str, career: Career) -> int:
        """Number of steps that a participant's own optimizer takes beside the local ones, at least 0.

        Learning-rate schedules over a whole run are planned by the sum of both.

        Args:
            federation: The federation before training, its data set up.
            name: Name of a participant, or of the student.
            career: Rounds in which it trains.
        """
        del federation, name, career
        return 0

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Called after the last local step of a round, before validation.

        Args:
            trainer: Trainer of the fit.
            federation: The federation.
            round_index: Index of the round, from 0.
        """

    def on_metrics(
        self, trainer: L.Trainer, federation: FederationView, stage: Stage, values: Mapping[str, float]
    ) -> None:
        """Called with the reduced metrics of all participants.

        Args:
            trainer: Trainer in use.
            federation: The federation.
            stage: ``"train"``, ``"val"`` or ``"test"``.
            values: Metrics by tag, such as ``"val_accuracy/hospital_a"``.
        """


def federated_callbacks(trainer: L.Trainer) -> list[FederatedCallback]:
    """Federated callbacks of a trainer, in the order in which a round calls them."""
    found = [callback for callback in trainer.callbacks if isinstance(callback, FederatedCallback)]  # type: ignore[attr-defined]
    return sorted(found, key=lambda callback: callback.phase)


def acting_callbacks(trainer: L.Trainer) -> list[FederatedCallback]:
    """Callbacks that act in local steps: the trainer's, and those that one of its callbacks represents at a site."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    represented = [one for callback in callbacks for one in getattr(callback, "represented", ())]
    return [*federated_callbacks(trainer), *represented]


def raise_event(
    federation: FederationView,
    event: str,
    round_index: int,
    *args: Any,
    part: str = "",
    before: Callable[[FederatedCallback], None] | None = None,
    after: Callable[[FederatedCallback], None] | None = None,
) -> None:
    """Call an event of every federated callback, each under a seed made of event, class and round.

    Args:
        federation: The federation, attached to a trainer.
        event: Name of a method of :class:`FederatedCallback`.
        round_index: Index of the round, from 0.
        args: Arguments of the event after trainer and federation.
        part: Further part of the seed, to tell events of one name in one round apart.
        before: Called with each callback before its seed is set.
        after: Called with each callback after its event.
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
