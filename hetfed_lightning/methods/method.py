"""Methods as the round calls them: exchanges, results, plans, losses and state, all made of a method's hooks.

What a method of a user's own writes is in :mod:`~hetfed_lightning.methods.method_hooks`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hetfed_lightning.federated_callback import Career
from hetfed_lightning.fleets.shaping import LossShape
from hetfed_lightning.fleets.weight_terms import WeightTerm
from hetfed_lightning.methods.carrier import Carrier
from hetfed_lightning.methods.loss_checks import changes_nothing, checked_losses, checked_term
from hetfed_lightning.methods.messages import About
from hetfed_lightning.methods.method_hooks import PREDICTION, MethodHooks
from hetfed_lightning.methods.planned_work import planned_steps, work_on_plans
from hetfed_lightning.methods.plans import Moment
from hetfed_lightning.methods.public_examples import public_batch
from hetfed_lightning.participants.participant import METHOD_MODULES, STUDENT

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.terms import FleetTerm
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.participants.participant import Participant, Stage
    from hetfed_lightning.supervised import Supervised

__all__ = ["PREDICTION", "About", "Method", "without_super"]

log = logging.getLogger(__name__)


class Method(MethodHooks):
    """Base class of federated methods: hooks with defaults, and what the round calls.

    A subclass overrides what :class:`~hetfed_lightning.methods.method_hooks.MethodHooks` has, and sets its attributes.
    Events of a callback that are overridden beside them call ``super()``.
    """

    carrier: Carrier | None = None
    """Transport of the method's messages in the run in progress; None outside of one."""

    _saved: Mapping[str, Any] | None = None
    _has_warned = False

    def begin_run(self, federation: FederationView, *, afresh: bool) -> None:
        """Drop the state of an earlier run, unless its trainer goes on; a checkpoint is read after this.

        Called by the federation after all ``setup``, whatever a subclass overrides.

        Args:
            federation: The federation, attached to its trainer.
            afresh: True in a fit that does not go on.
        """
        del federation
        if afresh:
            self.carrier, self._saved = None, None

    def prepare(self, trainer: L.Trainer, federation: FederationView) -> None:
        """Collect the descriptions of all participants and form the groups."""
        del trainer
        self._load_saved()
        self.carried.prepare(federation)

    def take_up(self, federation: FederationView) -> bool:
        """True if a checkpoint that was read has a part of the method; brought to the device for an evaluation.

        Args:
            federation: The federation, on its device.
        """
        with torch.inference_mode(mode=False):  # A later fit goes on with these tensors, and computes gradients.
            found = self._load_saved()
            self.carried.to(federation.device)
        return found

    def _load_saved(self) -> bool:
        if self._saved is None:
            return False
        self.carried.load_state_dict(self._saved)
        self._saved = None
        return True

    def on_round_start(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Hand the current results to newcomers; the exchange at the round's start follows."""
        del trainer
        self.carried.open_round(federation, round_index)

    def on_round_started(self, federation: FederationView, round_index: int) -> None:
        """Hand out the results of the exchange at the round's start, just made.

        Args:
            federation: The federation, in the round.
            round_index: Index of the round, from 0.
        """
        self.carried.hand_out(federation, round_index)

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Hand out the results of the exchange at the round's end."""
        del trainer
        self.carried.hand_out(federation, round_index)
        left_out = federation.guard.quarantined
        here = [name for name in federation.joined(round_index) if name not in left_out]
        is_last = round_index + 1 == federation.trainer.max_epochs
        self.work_after(federation, round_index, federation.contributors(), here if is_last else None)
        self.carried.close_round()

    def work_after(
        self, federation: FederationView, round_index: int, trained: Sequence[str], last: Sequence[str] | None
    ) -> None:
        """Have participants take the steps that are planned once a round's result was received.

        Args:
            federation: The federation, in a round.
            round_index: Index of the round, from 0.
            trained: Participants that took part in the round.
            last: Participants that take those planned after the last round; None in all rounds before.
        """
        if self.plans_work():
            if self.is_due(round_index):
                work_on_plans(federation, self, _with_student(federation, trained), "received", round_index)
            if last is not None:
                work_on_plans(federation, self, _with_student(federation, last), "last", round_index)

    def on_join(self, trainer: L.Trainer, federation: FederationView, names: Sequence[str], round_index: int) -> None:
        """Have newcomers take the steps that are planned for them."""
        del trainer
        if self.plans_work():
            work_on_plans(federation, self, names, "joined", round_index)

    def takes_over(self) -> bool:
        """True if the method has a :meth:`receive`, which may write to its participant."""
        return type(self).receive is not Method.receive

    def on_metrics(
        self, trainer: L.Trainer, federation: FederationView, stage: Stage, values: Mapping[str, float]
    ) -> None:
        """Record the participants' validation scores, for methods with ``needs_scores``."""
        if self.needs_scores and stage == "val" and not trainer.sanity_checking:
            headlines = {name: one.task.headline for name, one in federation.members().items()}
            self.carried.note_scores(headlines, values)

    @property
    def teaches_within_round(self) -> bool:
        """True if its results are learned from before the messages of a round's other methods are made."""
        return self.phase < Method.phase

    def plans_work(self) -> bool:
        """True if the method has a :meth:`plan`."""
        return type(self).plan is not Method.plan

    def further_steps(self, federation: FederationView, name: str, career: Career) -> int:
        """Steps that are planned beside the local ones."""
        if not self.plans_work():
            return 0
        steps = sum(planned_steps(federation, self, name, "received", one) for one in career.rounds if self.is_due(one))
        if career.joins_at > 0 and career.rounds:
            steps += planned_steps(federation, self, name, "joined", career.joins_at)
        last = (federation.trainer.max_epochs or 0) - 1
        if last >= 0 and federation[name].is_member(last):
            steps += planned_steps(federation, self, name, "last", last)
        return steps

    def adds_to_loss(self, federation: FederationView) -> bool:
        """True if the method has a :meth:`weight_term`."""
        del federation
        return type(self).weight_term is not Method.weight_term

    def local_loss(self, federation: FederationView, participant: Participant, batch_idx: int) -> Tensor | None:
        """Value of :meth:`weight_term` for one participant, a scalar; None without one."""
        del batch_idx
        return self._term(_trainable(participant), self.context_of(federation, participant))

    def loss_is_of_weights(self) -> bool:
        """True; :meth:`weight_term` does not depend on examples."""
        return type(self).local_loss is Method.local_loss

    def fleet_term(self, federation: FederationView, fleet: Fleet) -> FleetTerm | None:
        """Term of :meth:`weight_term` for a fleet's members; None without one."""
        return WeightTerm(self._term, self._contexts_of(federation, fleet), fleet, self.title)

    def follows_steps(self) -> bool:
        """True if the method has an :meth:`after_step`."""
        return type(self).after_step is not Method.after_step

    def follows_fleets(self) -> bool:
        """True; :meth:`after_step` changes weights in place, wherever they lie."""
        return type(self).after_local_step is Method.after_local_step

    @torch.no_grad()
    def after_local_step(self, federation: FederationView, participant: Participant) -> None:
        """Call :meth:`after_step` for one participant."""
        self.after_step(_trainable(participant), self.context_of(federation, participant))

    def gives_answers(self) -> bool:
        """True if the method has :meth:`answers`."""
        return type(self).answers is not Method.answers

    def shapes_loss(self) -> bool:
        """True if the method has an :meth:`example_loss` of own examples."""
        return self.has_example_loss() and not self.public_alone

    def has_example_loss(self) -> bool:
        """True if the method has an :meth:`example_loss`."""
        return type(self).example_loss is not Method.example_loss

    def shaped_losses(
        self, federation: FederationView, participant: Participant, losses: Tensor, batch: Supervised
    ) -> Tensor:
        """Value of :meth:`example_loss` for one participant's own batch, shape ``(B,)``."""
        return self._shaped(losses, batch, self.context_of(federation, participant))

    def fleet_shape(self, federation: FederationView, fleet: Fleet) -> LossShape:
        """Function of :meth:`example_loss` for a fleet's members."""
        return LossShape(self._shaped, self._contexts_of(federation, fleet), self.title)

    def _shaped(self, losses: Tensor, batch: Supervised, context: Context) -> Tensor:
        made = self.example_loss(losses, batch.inputs, batch.features, batch.outputs, batch.target, "own", context)
        return checked_losses(made, losses, self.title)

    def _term(self, parameters: Mapping[str, Tensor], context: Context) -> Tensor:
        term = checked_term(self.weight_term(parameters, context), parameters, self.title)
        if not self._has_warned and changes_nothing(term):
            self._has_warned = True
            log.warning(
                "%s.weight_term returns %g without a gradient, which changes no step: it depends on none of the "
                "parameters that it is given. Leave out detach(), no_grad and .data, or return 0.",
                self.title, float(term),
            )  # fmt: skip
        return term

    # Steps on public data

    def public_stream(self, moment: Moment) -> str:
        """First name of the random streams that order a participant's public examples at a moment."""
        return f"{self.title} {moment}"

    def is_ready(self, federation: FederationView, participant: Participant) -> bool:
        """True if the participant may take the method's steps on public data: it has received something to learn from.

        Args:
            federation: The federation, in a round.
            participant: The participant, or the student.
        """
        return not self.exchanges or bool(self.context_of(federation, participant).received)

    def public_loss(
        self,
        federation: FederationView,
        participant: Participant,
        indices: Tensor,
        augment: Callable[[Any], Any] | None = None,
    ) -> Tensor:
        """Mean of :meth:`example_loss` over a batch of public examples, a scalar.

        Args:
            federation: The federation, in a round.
            participant: The participant that learns.
            indices: Places of the examples in the public set, shape ``(B,)``.
            augment: Function of the backbone's inputs, given if there is a ``public_transform``.
        """
        seen = public_batch(federation, participant, indices, augment)
        return self._on_public(seen.outputs, seen, self.context_of(federation, participant)).mean()

    def public_shape(self, federation: FederationView, fleet: Fleet) -> LossShape:
        """Function of :meth:`example_loss` on public examples, for a fleet's members."""
        return LossShape(self._on_public, self._contexts_of(federation, fleet), self.title)

    def _on_public(self, losses: Tensor, batch: Supervised, context: Context) -> Tensor:
        del losses  # There are none: public examples have no targets.
        found: Any = self.example_loss(
            None, batch.inputs, batch.features, batch.outputs, batch.target, "public", context
        )
        if isinstance(found, Tensor) and found.shape == (len(batch.outputs),):
            return found
        said = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f'{self.title}.example_loss(on="public"): expected a loss for each of {len(batch.outputs)} examples, shape '
            f"({len(batch.outputs)},), got {said}. Reduce over all dimensions but the first."
        )

    def _contexts_of(self, federation: FederationView, fleet: Fleet) -> list[Context]:
        return [self.context_of(federation, one.local.participant) for one in fleet.members]

    def context_of(self, federation: FederationView, participant: Participant) -> Context:
        """Context of one participant in the round in progress: received tensors, memory and modules.

        Args:
            federation: The federation, in a round.
            participant: The participant.
        """
        return self.carried.context(federation, participant.name or "")

    @property
    def carried(self) -> Carrier:
        """Carrier of the run in progress.

        Raises:
            RuntimeError: Outside of a run.
        """
        if self.carrier is None:
            raise RuntimeError(f"{self.title} is used outside of a fit: nothing carries its messages.")
        return self.carrier

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Groups, results, and the memory of server and participants."""
        return self.as_saved(dict(self._saved or {}) if self.carrier is None else self.carrier.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint, once the method has a carrier."""
        self._saved = self.memory_of(state_dict)

    def as_saved(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """State for a checkpoint, from the state of a carrier.

        Args:
            found: State of the carrier; empty without one.
        """
        return dict(found)

    @staticmethod
    def memory_of(saved: Mapping[str, Any]) -> dict[str, Any]:
        """State of a carrier, from the state in a checkpoint."""
        return dict(saved)


def without_super(method: Method, event: str) -> str:
    """Message about a method whose event keeps the round from its messages.

    Args:
        method: The method.
        event: Name of the event.
    """
    arguments = "trainer, federation" + (", round_index" if event.startswith("on_round") else "")
    return (
        f"{method.title} overrides {event} without super().{event}({arguments}), so that its messages go nowhere. Call "
        "it there, or write the hooks of a Method instead: describe, send, combine, receive."
    )


def _with_student(federation: FederationView, names: Sequence[str]) -> list[str]:
    left_out = federation.guard.quarantined
    return [*names, *([STUDENT] if federation.student is not None and STUDENT not in left_out else [])]


def _trainable(participant: Participant) -> dict[str, Tensor]:
    return {
        key: one
        for key, one in participant.named_parameters()
        if one.requires_grad and not key.startswith(f"{METHOD_MODULES}.")
    }
