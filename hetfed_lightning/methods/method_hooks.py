"""The protocol of a federated method: one class says what is sent, how it is combined and what is done with it.

A method is a Lightning callback in ``trainer.callbacks``. It extends :class:`~hetfed_lightning.Method` and writes a few
of the hooks below; the round calls them, and everything around them is done for it: messages are gathered over
processes or institutions, checked and counted, participants that are not finite are left out by name, every call is
seeded by name, state is kept in checkpoints, newcomers and participants that were not sampled receive what is current.
A method that keeps to these hooks runs in one process, over several ranks and between institutions with the same
numbers.

Callbacks that only watch or schedule have no message: they extend
:class:`~hetfed_lightning.FederatedCallback` alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from hetfed_lightning.federated_callback import FederatedCallback, Phase
from hetfed_lightning.finite import is_finite
from hetfed_lightning.methods.augmentation import PublicTransform
from hetfed_lightning.methods.messages import About, Combined, Exchange, Message, When, Work
from hetfed_lightning.methods.plans import Moment, Part
from hetfed_lightning.methods.search_space import Range, search_space

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import Cohorts, FederationView
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.participant import Participant

log = logging.getLogger(__name__)

PREDICTION = "prediction"
"""Name in ``Method.answers`` of the outputs that a participant predicts with."""

NETWORK = "network"
"""Name of a participant's own network as a further model, where a method's answer takes its place and scores count."""


class MethodHooks(FederatedCallback):
    """Hooks of a federated method; every one has a default, and most methods write three.

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
        needs_head: True if ``Context.head`` is to hold the participant's head, to be applied to other features than the
            network's own.
        public_alone: True if ``example_loss`` is of public examples alone and is not called for a participant's own.
        shares_order: True if all participants see the public examples of a round in one order, as students that are to
            be equal do.
        public_transform: Function of the backbone's inputs ``(B, ...)`` of a public batch that a participant learns
            from, such as a random shift; the batches that it predicts are left as they are. Returns the same shape and
            dtype, draws from torch, ``random`` or ``numpy.random``, which are seeded for it, and trains nothing. Set in
            ``__init__``; None for none.
        once: True if ``combine`` runs on one rank, which hands the result to the others, as private noise needs it.
            Otherwise it runs on every rank on equal input and must draw from torch's global generator alone, which is
            seeded by the method and the round.
        paper_shares: Patterns of ``Participant(shared=...)`` that a published method's paper has, which
            ``hetfed --method`` sets; empty if it says nothing of that.
        search_space: Ranges of arguments that ``hetfed benchmark --tune`` searches, made by
            :func:`~hetfed_lightning.methods.search_space.search_space`; empty for none.
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
    needs_head: ClassVar[bool] = False
    public_alone: ClassVar[bool] = False
    shares_order: ClassVar[bool] = False
    paper_shares: ClassVar[Sequence[str]] = ()
    search_space: ClassVar[Mapping[str, Range]] = search_space()
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

    def is_due(self, round_index: int) -> bool:
        """True if messages travel in a round; every round by default."""
        del round_index
        return True

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
        return kind.state_keys is not MethodHooks.state_keys and kind.send is MethodHooks.send

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
        ``Trainer.predict``; beside a method with ``needs_scores`` the network's own are then a further model,
        ``"network"``, whose scores count. Any other name is a further model: on the same batches it is measured by the
        same loss and metrics, as ``val_accuracy.NAME/hospital_a`` and ``val_global_accuracy.NAME/hospital_a``. It is
        called without gradients, in evaluation mode, for each batch of each participant, before the first exchange too
        and of an untrained network; the student has no method.

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

    def may_exchange(self, federation: FederationView, round_index: int) -> bool:
        """True if the messages of a due round may travel; called once, before anyone sends.

        Args:
            federation: The federation, in the round.
            round_index: Index of the round, from 0.
        """
        del federation, round_index
        return True

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
