"""The protocol of a federated method: one class says what is sent, how it is combined and what is done with it.

A method is a Lightning callback in ``trainer.callbacks``. It writes a few of the hooks below; the round calls them, and
everything around them is done for it: messages are gathered over processes or institutions, checked and counted,
participants that are not finite are left out by name, every call is seeded by name, state is kept in checkpoints,
newcomers and participants that were not sampled receive what is current. A method that keeps to these hooks runs in one
process, over several ranks and between institutions with the same numbers.

Callbacks that only watch or schedule have no message: they extend
:class:`~hetfed_lightning.FederatedCallback` alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hetfed_lightning.federated_callback import Career, FederatedCallback, Phase
from hetfed_lightning.finite import is_finite
from hetfed_lightning.fleets.shaping import LossShape
from hetfed_lightning.fleets.weight_terms import WeightTerm
from hetfed_lightning.methods.augmentation import PublicTransform
from hetfed_lightning.methods.carrier import Carrier
from hetfed_lightning.methods.loss_checks import changes_nothing, checked_losses, checked_term
from hetfed_lightning.methods.messages import Combined, Exchange, Message, When, Work
from hetfed_lightning.methods.planned_work import planned_steps, work_on_plans
from hetfed_lightning.methods.plans import Moment, Part
from hetfed_lightning.methods.public_examples import public_batch
from hetfed_lightning.participants.participant import METHOD_MODULES, STUDENT

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.federation_view import Cohorts, FederationView
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.terms import FleetTerm
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.participant import Participant, Stage
    from hetfed_lightning.supervised import Supervised

log = logging.getLogger(__name__)

PREDICTION = "prediction"
"""Name in ``Method.answers`` of the outputs that a participant predicts with."""

About = Mapping[str, Message]
"""Descriptions of participants, by name."""


class Method(FederatedCallback):
    """Base class of federated methods; every hook has a default, and most methods write three.

    Attributes:
        exchanges: Moments at which messages travel; a round's :meth:`senders` and :meth:`receivers` may be
            fewer.
        replaces_state: True if a result replaces the participant's tensors of the same keys.
        synchronise_start: True if all members of a group begin with the state of its first joined member, before their
            first local step; for methods that replace state.
        needs_steps: True if a participant without an optimizer step in the round sends nothing at its end.
        combines_silence: True if ``combine`` is called for a group of which nobody sent a message.
        keeps_results: True if a result stands until the next, is saved, and is handed to newcomers; False if it is for
            its own round alone, at whose end it is dropped.
        needs_scores: True if ``ServerMemory.scores`` is to hold the participants' validation scores.
        public_alone: True if ``example_loss`` is of public examples alone and is not called for a participant's own.
        public_transform: Function of the backbone's inputs ``(B, ...)`` of a public batch that a participant learns
            from, such as a random shift; the batches that it predicts are left as they are. Returns the same shape and
            dtype, draws from torch, ``random`` or ``numpy.random``, which are seeded for it, and trains nothing. Set in
            ``__init__``; None for none.
        once: True if ``combine`` runs on one rank, which hands the result to the others, as private noise needs it.
            Otherwise it runs on every rank on equal input and must draw from torch's global generator alone, which is
            seeded by the method and the round.
        title: Name of the method in tags such as ``federation/bytes_up/TITLE`` and in messages; the class's by default.
    """

    phase = Phase.AVERAGING
    gives_finite = True

    exchanges: Sequence[Exchange] = (Exchange(),)
    replaces_state: ClassVar[bool] = False
    synchronise_start: bool = False
    needs_steps: ClassVar[bool] = False
    combines_silence: ClassVar[bool] = False
    keeps_results: ClassVar[bool] = True
    needs_scores: ClassVar[bool] = False
    once: ClassVar[bool] = False
    public_alone: ClassVar[bool] = False
    public_transform: PublicTransform | None = None
    name: str | None = None
    """Distinguishes two methods of one class in a run, in checkpoints and tags; None for a single one."""

    @property
    def title(self) -> str:
        """Name of the method in tags and messages."""
        return type(self).__name__ if self.name is None else f"{type(self).__name__}:{self.name}"

    @property
    def state_key(self) -> str:
        """Key of the method's state in checkpoints; distinct for two of a class by their ``name``."""
        return super().state_key if self.name is None else f"{super().state_key}:{self.name}"

    # Before training

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Description of a participant for the server, made once before training, or on joining.

        Args:
            participant: Participant of this process or site, with fitted transform and task.
            data: Its training examples and the public set.

        Returns:
            Tensors by key, such as counts, or layouts on the device ``"meta"``; empty by default. Beside messages,
            ``groups`` and ``combine`` know nothing else about the participant.
        """
        del participant, data
        return {}

    def groups(self, about: About) -> Mapping[str, Sequence[str]]:
        """Names of the members of each group, by the group's name; ``combine`` runs for each group by itself.

        By default participants whose descriptions have equal keys, shapes and dtypes are one group, which bears the
        name of its first member.

        Args:
            about: Descriptions of all known participants, in the order of the federation.

        Raises:
            ValueError: If the participants cannot do together what the method is for.
        """
        found: dict[tuple[Any, ...], list[str]] = {}
        for name, message in about.items():
            layout = tuple((key, tuple(one.shape), one.dtype) for key, one in sorted(message.items()))
            found.setdefault(layout, []).append(name)
        return {members[0]: members for members in found.values()}

    def plan(self, participant: Participant, moment: Moment, round_index: int) -> Sequence[Part]:
        """Parts of a participant's work in a round, one after another; none by default.

        Without parts for the moment ``"local"``, local steps follow ``local_epochs`` and ``step_budget``. One method
        alone may plan the length of a participant's local steps; any number may have ``Part(on="both")`` without a
        length, which adds a public batch to each of them. Plans are asked for before batches are drawn, also for later
        rounds (for learning-rate schedules over a run), and again after a resume. So the result may depend on the
        arguments and the method's settings alone.

        The loss of a public batch is the mean of this method's :meth:`example_loss` with ``on="public"``; that of other
        methods, and terms of weights, have no part in it. A participant that reads no input of the public set takes no
        step on it. Until a participant has received something, a method with exchanges gives it no public batch. The
        federation's student is asked like a participant for all moments but the first, and follows parts on public data
        alone.

        Args:
            participant: Participant whose work is planned; not to be changed.
            moment: ``"local"``: the local steps. ``"received"``: at the end of a round in which the method is due, once
                its result was received, of those who took part. ``"joined"``: of newcomers, once they have received
                what is current. ``"last"``: after the exchange of the run's last round (``Trainer(max_epochs=...)``),
                of everyone who has joined. All but the first come before the validation and at the method's place
                among the callbacks, so that a method without exchanges may follow another's.
            round_index: Index of the round, from 0.
        """
        del participant, moment, round_index
        return ()

    # At the participant

    def modules(self, participant: Participant) -> Mapping[str, nn.Module]:
        """Modules of the method's own for a participant, by name; ``context.modules`` in all other hooks.

        They are made as a run begins, with initial weights that depend on (seed, participant, method). The
        participant's optimizer trains them and its checkpoints hold them; only ``send`` can make them travel. In a
        fleet ``context.modules`` are copies that compute with each member's parameters.

        Args:
            participant: Participant that gets them.
        """
        del participant
        return {}

    def example_loss(
        self,
        own: Any,
        inputs: Any,
        features: Tensor,
        outputs: Tensor,
        target: Tensor,
        on: Literal["own", "public"],
        context: Context,
    ) -> Tensor:
        """Loss of each example of a step, shape ``(B,)``: add to ``own``, scale it or replace it.

        It must not mix examples nor read tensor values in Python (no ``if tensor:``, ``.item()``): a fleet computes it
        for all members at once by ``vmap``, and DP-SGD takes its gradient by example. It is called with public examples
        only if the method's :meth:`plan` has parts on them, and with a participant's own unless ``public_alone``.

        Args:
            own: The task's loss of each example, a tensor of shape ``(B,)``, scaled so that its mean is the batch's
                loss; None for public examples, which have no targets.
            inputs: Inputs of the backbone, of B examples.
            features: Output of the backbone, shape ``(B, D)``.
            outputs: Output of the head, shape ``(B, C)``.
            target: Targets of the B examples, shape ``(B,)`` or ``(B, C)``; of public examples their places in the
                public set, shape ``(B,)``, in 0 to P - 1, by which to pick from a message of ``(P, ...)``.
            on: ``"own"`` for the participant's own examples, ``"public"`` for those of the public set.
            context: The participant's side of the method.
        """
        del inputs, features, outputs, target, on, context
        result: Tensor = own
        return result

    def weight_term(self, parameters: Mapping[str, Tensor], context: Context) -> Tensor:
        """Term of the local loss that depends on weights alone, a scalar; differentiated for a whole fleet at once.

        Under DP-SGD its gradient is added after the noise. It must not depend on examples.

        Args:
            parameters: Trainable parameters of the participant by key, without modules of methods.
            context: The participant's side of the method.
        """
        raise NotImplementedError

    def after_step(self, parameters: Mapping[str, Tensor], context: Context) -> None:
        """Change weights in place after an optimizer step, as a projection does; called without gradients.

        A method with this hook takes its participants out of fleets. It must not depend on examples.

        Args:
            parameters: Trainable parameters of the participant by key, without modules of methods.
            context: The participant's side of the method.
        """

    def send(self, participant: Participant, data: ParticipantData, work: Work, context: Context) -> Message:
        """Message to the server: finite tensors by key, of equal keys and dtypes in a group.

        It is called without gradients for each asked participant, in the process that holds its data, before any method
        hands out a result of the same moment. Draws from torch are seeded by the participant's name and the round.

        Args:
            participant: The sender; not to be changed.
            data: Its training examples and the public set.
            work: Its local work of the round.
            context: Its side of the method; ``memory`` may be written to.
        """
        raise NotImplementedError(f"{type(self).__name__} has exchanges and no send: write it, or set exchanges to ().")

    def state_keys(self, name: str) -> Sequence[str] | None:
        """Keys of a participant's state that are its whole message; None if :meth:`send` makes it.

        The tensors of all senders are then read at once, as views and without copies, which is fast in fleets.

        Args:
            name: Name of a participant, once the groups are known.
        """
        del name
        return None

    @property
    def sends_state(self) -> bool:
        """True if messages are parts of participants' states, named by :meth:`state_keys`."""
        kind = type(self)
        return kind.state_keys is not Method.state_keys and kind.send is Method.send

    def offered_keys(self, participant: Participant) -> Sequence[str] | None:
        """Keys of a participant's state that may travel in this method's name; None to go by the message's layout.

        Between institutions a site knows no groups. It sends and replaces none but these, whatever a coordinator names.

        Args:
            participant: Participant of this process or site.
        """
        return self.state_keys(participant.name or "") if self.sends_state else None

    @property
    def reads_received(self) -> bool:
        """True if a hook may read ``context.received``, which each state of a site then holds."""
        return True

    def keys_of(self, group: str, keys: Sequence[str]) -> Sequence[str]:
        """Keys that belong to one group, among a member's :meth:`state_keys`; all by default.

        Args:
            group: Name of the group.
            keys: Keys of the member.
        """
        del group
        return keys

    def warn_of_idle(self, name: str) -> None:
        """Warn of a participant without an optimizer step, once in a run, for methods with ``needs_steps``."""
        log.warning("%s: %s took no optimizer step in a round and sends nothing.", self.title, name)

    def receive(self, participant: Participant, data: ParticipantData, state: Message, context: Context) -> None:
        """Take over a result; called for every joined receiver, in the process that holds its data.

        With ``replaces_state`` the tensors of equal keys have been replaced before.

        Args:
            participant: The receiver; may be changed in place.
            data: Its training examples and the public set.
            state: The result by key, which is ``context.received`` from now on; not to be written to.
            context: Its side of the method; ``memory`` may be written to.
        """

    def answers(self, inputs: Any, features: Tensor, outputs: Tensor, context: Context) -> Mapping[str, Tensor]:
        """Outputs by name with which a participant is evaluated beside or instead of its own; none by default.

        ``"prediction"`` takes the place of the network's outputs in all figures of validation and test and in
        ``Trainer.predict``. Any other name is a further model: on the same batches it is measured by the same loss and
        metrics, as ``val_accuracy.NAME/hospital_a`` and ``val_global_accuracy.NAME/hospital_a``. It is called without
        gradients, in evaluation mode, for each batch of each participant, before the first exchange too and of an
        untrained network; the student has no method.

        Training, teachers' outputs, ``Participant.predict`` and ``hetfed export`` keep to the network alone, and so
        does a participant whose ``validation_step`` calls no ``evaluate_batch``. Outputs that are not finite are
        measured as they are, like those of the network.

        Args:
            inputs: Inputs of the backbone, of B examples; a model with a backbone of its own is in
                ``context.modules``.
            features: Output of the backbone, shape ``(B, D)``.
            outputs: Output of the head, shape ``(B, C)`` or ``(B,)``; answers have the same shape.
            context: The participant's side of the method; under ``Trainer.validate``, ``test`` and ``predict`` that of
                the checkpoint, and empty without one. Not to be written to.
        """
        del inputs, features, outputs, context
        return {}

    # At the server

    def senders(self, when: When, round_index: int, about: About, cohorts: Cohorts) -> Sequence[str]:
        """Names of participants that are asked for a message at a moment of a round, in the federation's order.

        By default nobody if the method is not due, else those whom :attr:`exchanges` name.

        Args:
            when: ``"start"`` or ``"end"`` of the round; one of those in :attr:`exchanges`.
            round_index: Index of the round, from 0.
            about: Descriptions of all known participants, by name.
            cohorts: Cohort of each round.
        """
        del about
        asked = {exchange.who for exchange in self.exchanges if exchange.when == when}
        if not asked or not self.is_due(round_index):
            return []
        return cohorts.joined(round_index) if "joined" in asked else cohorts.active_names(round_index)

    def receivers(self, when: When, round_index: int, about: About, cohorts: Cohorts) -> Sequence[str] | None:
        """Names of participants that a moment's results are handed to; None, the default, for everyone who has joined.

        Only for methods that keep no results: of a result that is kept everybody has the newest. Bytes down are counted
        for the receivers that are named; by default for those who were asked, since the others receive what is current
        when they next train.

        Args:
            when: ``"start"`` or ``"end"`` of the round.
            round_index: Index of the round, from 0.
            about: Descriptions of all known participants, by name.
            cohorts: Cohort of each round.
        """
        del when, round_index, about, cohorts
        return None

    def message_layout(self, participant: Participant, data: ParticipantData) -> Message | None:
        """Layout of a participant's messages, by key on the device ``"meta"``, which institutions tell before training.

        None by default: :meth:`send` is rehearsed. A method whose messages take long to make says it here.

        Args:
            participant: The sender.
            data: Its training examples and the public set.
        """
        del participant, data
        return None

    def fault_of(self, message: Message, kind: str) -> str:
        """Reason for which a message cannot be used; empty if it can. Its sender is left out of the round by name.

        By default a message has to be finite. Asked where the message is sent, and by the coordinator of institutions.

        Args:
            message: Tensors by key.
            kind: Kind of the sender's task, such as ``"multiclass"``.
        """
        del kind
        if is_finite(message.values()):
            return ""
        return f"its message is not finite at {next(key for key, one in message.items() if not is_finite([one]))}"

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        """Result of a group's messages.

        Args:
            sent: Messages by sender, in the order of the federation; at least one, except for methods with
                ``combines_silence``. Not to be written to.
            asked: Names of all asked members; one missing in ``sent`` was left out of the round.
            about: Descriptions of the group's members.
            server: Memory of this group at the server: the last result, and tensors or modules of the method. Before
                the first exchange it knows no weights: those with which round 0 begins are known to an exchange at a
                round's start alone.
            round_index: Index of the round, from 0.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has exchanges and no combine: write it, or set exchanges to ()."
        )

    def inherits(self, group: str, before: ServerMemory) -> ServerMemory | None:
        """Memory with which a group begins when members join or leave or a checkpoint is resumed; None to begin anew.

        Args:
            group: Name of the group.
            before: Memory of a group of that name, or of one with a member in common.
        """
        return before if group == before.group else before.continued(group)

    # Calls by the round

    carrier: Carrier | None = None
    """Transport of the method's messages in the run in progress; None outside of one."""

    _saved: Mapping[str, Any] | None = None
    _has_warned = False

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Drop the state of an earlier run, unless its trainer goes on; a checkpoint is read after this."""
        del pl_module
        if stage == "fit" and trainer.current_epoch == 0:
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

    def may_exchange(self, federation: FederationView, round_index: int) -> bool:
        """True if the messages of a due round may travel; called once, before anyone sends.

        Args:
            federation: The federation, in the round.
            round_index: Index of the round, from 0.
        """
        del federation, round_index
        return True

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

    def is_due(self, round_index: int) -> bool:
        """True if messages travel in a round; every round by default."""
        del round_index
        return True


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
