"""Distillation of the participants' ensemble on a public set, into the participants or into one unified student."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from hetfed_lightning.distillation import Ensemble, MeanProbabilities, Teachers, check_temperature
from hetfed_lightning.distillation.outputs import KINDS, at_least_float32, says_of_kinds
from hetfed_lightning.federated_callback import Phase
from hetfed_lightning.finite import why_not_heard
from hetfed_lightning.local_training.step_checks import check_follows
from hetfed_lightning.methods.augmentation import in_order
from hetfed_lightning.methods.context import Context
from hetfed_lightning.methods.distillation.soft_targets import soft_losses
from hetfed_lightning.methods.distillation.teacher_descriptions import (
    TeacherKnowledge,
    lessons_of,
    outputs_of,
    teacher_description,
)
from hetfed_lightning.methods.messages import Combined, Exchange, Message, When, Work
from hetfed_lightning.methods.method import About, Method
from hetfed_lightning.methods.participant_data import ParticipantData, PrivateExamplesError
from hetfed_lightning.methods.planned_work import work_on_plans
from hetfed_lightning.methods.plans import Moment, Part
from hetfed_lightning.methods.server_memory import ServerMemory
from hetfed_lightning.metrics import agreement_matrix, effective_classes, mean_agreement
from hetfed_lightning.participants.newcomer import taught
from hetfed_lightning.participants.participant import STUDENT
from hetfed_lightning.schedules import RoundSchedule, value_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    import lightning as L

    from hetfed_lightning.federation_view import Cohorts, FederationView
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.shaping import LossShape
    from hetfed_lightning.participants.participant import Participant

log = logging.getLogger(__name__)

FEWEST_CLASSES = 1.2
"""Effective number of classes of targets below which a warning says so; a quarter of all classes if that is more."""

GROUP, OUTPUTS, TARGETS = "teachers", "outputs", "targets"
"""Name of the only group, and keys of messages and results."""


class EnsembleDistillation(Method):
    """Distils the ensemble of the participants into participants, or into a unified student.

    Once per round every teacher predicts on the public set, through its own ``transform``. The ensemble combines the
    outputs into one softened target per public example. Only outputs travel. Architectures may differ in everything but
    the number and meaning of their outputs; a regression distils by squared error. A participant that can read no input
    of the public set neither teaches nor learns.

    Args:
        ensemble: Combination of the teachers' outputs ``(K, P, C)``; :class:`MeanProbabilities` if None.
        temperature: Softens teachers and students alike; above 0, finite. May follow a schedule over rounds.
        weight: Weight of the distillation loss, beside the local loss (``"mixed"``) or alone (``"phase"``); at least 0.
            May follow a schedule over rounds.
        mode: ``"phase"`` distils at a round's end, after the local steps. ``"mixed"`` adds the distillation loss on a
            public batch to the local steps of the next round; local accuracy suffers less.
        students: ``"mutual"`` for every participant, ``"student"`` for the federation's student alone, ``"both"``, or
            ``"auto"``: the student if there is one, else every participant. The student always learns in a phase of its
            own.
        epochs: Passes over the public set in a phase, at least 1.
        batch_size: Public examples per batch, at least 1.
        mixed_epochs: In ``"mixed"``, number of the last local epochs that distil; all if None.
        every_n_rounds: Distils in every n-th round, at least 1.
        start_round: First round that distils, from 0; None is 0 for a phase and 1 for ``"mixed"``, since untrained
            teachers have nothing to teach.
        optimizer: Makes the participants' optimizer of the phase, anew every round; None for their own.
        name: Distinguishes two instances in one run, in checkpoints and tags.
        public_transform: Changes the public examples that a student learns from, such as
            :class:`~hetfed_lightning.layers.RandomShift`; targets stay those of the plain examples. A module, a
            function, or modules in a list, applied in order. It is given a batch ``(B, ...)`` of floating-point numbers
            as the participant's ``transform`` leaves it, and returns the same shape and dtype; inputs by name and whole
            numbers are refused. It draws from torch, ``random`` or ``numpy.random``, which are seeded for each
            participant, round and batch, and has nothing to train.

    Raises:
        TypeError: If ``public_transform`` cannot be called.
        ValueError: If a setting is out of its range; before training, if there is no public set, the outputs of
            teachers and students do not agree, or ``public_transform`` cannot be applied.

    Reference:
        Hinton, Vinyals and Dean (2015), Distilling the Knowledge in a Neural Network, eq. 1 and section 2.1; Lin et al.
        (2020), Ensemble Distillation for Robust Model Fusion in Federated Learning (a server student); Li and Wang
        (2019), FedMD (mutual, by logits). Ours distils probabilities rather than FedMD's logits.
    """

    phase = Phase.DISTILLATION
    gives_finite = False
    exchanges = (Exchange("start", "joined"), Exchange("end"))
    combines_silence = True
    keeps_results = False
    needs_scores = True
    public_alone = True

    def __init__(
        self,
        ensemble: Ensemble | None = None,
        *,
        temperature: float | RoundSchedule = 2.0,
        weight: float | RoundSchedule = 1.0,
        mode: Literal["phase", "mixed"] = "phase",
        students: Literal["auto", "mutual", "student", "both"] = "auto",
        epochs: int = 1,
        batch_size: int = 64,
        mixed_epochs: int | None = None,
        every_n_rounds: int = 1,
        start_round: int | None = None,
        optimizer: OptimizerCallable | None = None,
        name: str | None = None,
        public_transform: nn.Module | Sequence[nn.Module] | Callable[[Any], Any] | None = None,
    ) -> None:
        for setting, count in (
            ("epochs", epochs),
            ("batch_size", batch_size),
            ("every_n_rounds", every_n_rounds),
        ):
            if count < 1:
                raise ValueError(f"{setting}: expected at least 1, got {count}.")
        if mode not in {"phase", "mixed"}:
            raise ValueError(f"mode: expected 'phase' or 'mixed', got {mode!r}.")
        if students not in {"auto", "mutual", "student", "both"}:
            raise ValueError(f"students: expected 'auto', 'mutual', 'student' or 'both', got {students!r}.")
        if mixed_epochs is not None and mixed_epochs < 1:
            raise ValueError(f"mixed_epochs: expected at least 1 or None, got {mixed_epochs}.")
        _check_settings(temperature, weight, 0)
        self.ensemble = ensemble or MeanProbabilities()
        self.temperature = temperature
        self.weight = weight
        self.mode = mode
        self.students = students
        self.epochs = epochs
        self.batch_size = batch_size
        self.mixed_epochs = mixed_epochs
        self.every_n_rounds = every_n_rounds
        self.start_round = (1 if mode == "mixed" else 0) if start_round is None else start_round
        self.optimizer = optimizer
        self.name = name
        self.public_transform = in_order(public_transform)
        self.agreement: tuple[tuple[str, ...], Tensor] | None = None
        self._abstaining: frozenset[str] = frozenset()
        self._about: About = {}
        self._known = TeacherKnowledge()
        self._has_student = self._has_told_of_classes = False

    @property
    def title(self) -> str:
        """Name of the method in tags and messages."""
        return "distillation" if self.name is None else f"distillation:{self.name}"

    # Before training

    def begin_run(self, federation: FederationView, *, afresh: bool) -> None:
        """Drop the state of an earlier run, unless its trainer goes on; a checkpoint is read after this."""
        super().begin_run(federation, afresh=afresh)
        self._has_student, self._has_told_of_classes = federation.has_student, False
        if afresh:
            self._about, self._known = {}, TeacherKnowledge()

    def prepare(self, trainer: L.Trainer, federation: FederationView) -> None:
        """Refuse teachers and students whose outputs do not agree, and schedules that leave their range."""
        for round_index in range(trainer.max_epochs or 0):
            _check_settings(self.temperature, self.weight, round_index)
        check_follows("EnsembleDistillation(optimizer=...)", self.optimizer)
        if self.students in {"student", "both"} and federation.student is None:
            raise ValueError(f"students={self.students!r} needs Federation(student=Participant(...)), which is None.")
        data = federation.federated_data
        if 0 < data.num_public < self.ensemble.fewest_public:
            raise ValueError(
                f"{self.title}: {type(self.ensemble).__name__} needs at least {self.ensemble.fewest_public} public "
                f"examples, got {data.num_public}: give a larger public set, or take another ensemble."
            )
        inputs = data.public_inputs(torch.arange(1))
        self._abstaining = _abstaining(federation, inputs)
        readers = {name: one for name, one in federation.everyone().items() if name not in self._abstaining}
        for participant in readers.values():
            check_kind(participant, self.ensemble)
        super().prepare(trainer, federation)
        if (student := readers.get(STUDENT)) is not None:
            first = next(name for name in readers if name != STUDENT)
            width = ParticipantData(federation, student, self.title).output_width
            _check_alike(
                student.label, (student.task.kind, width), readers[first].label, outputs_of(self._about[first])
            )

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Kind and width of the outputs, number of examples, lessons asked for; examples by class if they are needed.

        Empty for a participant that reads nothing of the public set.

        Args:
            participant: Participant to describe.
            data: Its training examples and the public set.
        """
        if not data.reads_public:
            return {}
        counts = data.class_counts if "class_counts" in self.ensemble.needs else None
        lessons = 0 if participant.transfer is None else participant.transfer.distillation_epochs
        return teacher_description(participant.task.kind, data.output_width, data.num_samples, counts, lessons)

    def groups(self, about: About) -> Mapping[str, Sequence[str]]:
        """One group of all participants that read the public set.

        Args:
            about: Descriptions of all participants, by name.

        Raises:
            ValueError: If their outputs differ in kind or number; names two of them.
        """
        outputs = {name: found for name, one in about.items() if (found := outputs_of(one)) is not None}
        for name, own in outputs.items():
            first = next(iter(outputs))
            _check_alike(f"participant {name!r}", own, f"participant {first!r}", outputs[first])
        self._about, self._known = about, TeacherKnowledge.of(about)
        return {GROUP: list(outputs)} if outputs else {}

    def learners(self, *, has_student: bool) -> tuple[bool, bool]:
        """True if the participants learn, and True if the student does, as a pair."""
        if self.students == "auto":
            return not has_student, has_student
        return self.students in {"mutual", "both"}, self.students in {"student", "both"}

    def is_due(self, round_index: int) -> bool:
        """True if a round distils."""
        return round_index >= self.start_round and (round_index - self.start_round) % self.every_n_rounds == 0

    def _readers(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` who read something of the public set."""
        return [name for name in names if name not in self._abstaining]

    # The round

    def mixes(self, round_index: int, *, has_student: bool) -> bool:
        """True if the local steps of a round distil, for participants that receive targets before them.

        Args:
            round_index: Index of the round, from 0.
            has_student: True if there is a unified student.
        """
        mutual, _ = self.learners(has_student=has_student)
        return self.mode == "mixed" and mutual and self.is_due(round_index)

    def senders(self, when: When, round_index: int, about: About, cohorts: Cohorts) -> Sequence[str]:
        """Teachers: at a round's start those who have learned something before, at its end those who trained in it.

        They are asked at the start in ``"mixed"`` mode and for the lessons of newcomers, at the end for a phase and for
        the student. Participants that read nothing of the public set are never asked.

        Args:
            when: ``"start"`` or ``"end"`` of the round.
            round_index: Index of the round, from 0.
            about: Descriptions of all known participants, by name.
            cohorts: Cohort of each round.
        """
        if when == "end":
            mutual, student = self.learners(has_student=cohorts.has_student)
            distils = self.is_due(round_index) and (student or (mutual and self.mode == "phase"))
            return _readers(cohorts.active_names(round_index), about) if distils else []
        pupils = self.pupils(round_index, about, cohorts)
        if not (pupils or self.mixes(round_index, has_student=cohorts.has_student)):
            return []
        new = {*cohorts.newcomers(round_index), *pupils}
        return _readers([name for name in cohorts.joined(round_index) if name not in new], about)

    def receivers(self, when: When, round_index: int, about: About, cohorts: Cohorts) -> Sequence[str]:
        """Participants that learn: those who train in the round, or newcomers in their first.

        The student receives nothing, since it is where the targets are made.

        Args:
            when: ``"start"`` or ``"end"`` of the round.
            round_index: Index of the round, from 0.
            about: Descriptions of all known participants, by name.
            cohorts: Cohort of each round.
        """
        if when == "start":
            mixes = self.mixes(round_index, has_student=cohorts.has_student)
            active = cohorts.active_names(round_index)
            return _readers(active, about) if mixes else self.pupils(round_index, about, cohorts)
        mutual, _ = self.learners(has_student=cohorts.has_student)
        return _readers(cohorts.active_names(round_index), about) if mutual and self.mode == "phase" else []

    def pupils(self, round_index: int, about: About, cohorts: Cohorts) -> list[str]:
        """Names of participants that train for the first time after joining a run in progress, and ask for lessons.

        One that is not sampled in the round in which it joins holds what is shared on loan, and learns when it is.

        Args:
            round_index: Index of the round, from 0.
            about: Descriptions of all known participants, by name.
            cohorts: Cohort of each round.
        """
        found = []
        for name in cohorts.active_names(round_index) if round_index else ():
            joined_at = cohorts.joined_at(name) if lessons_of(about.get(name, {})) else 0
            earlier = range(joined_at, round_index)
            if joined_at > 0 and not any(name in cohorts.active_names(one) for one in earlier):
                found.append(name)
        return found

    def may_exchange(self, federation: FederationView, round_index: int) -> bool:
        """False if all teachers of the round have been left out of it."""
        del round_index
        left = federation.guard.quarantined
        return not left or any(name not in self._abstaining for name in federation.contributors())

    def send(self, participant: Participant, data: ParticipantData, work: Work, context: Context) -> Message:
        """Outputs on the public set, or what the ensemble asks for in their place, shape ``(P, C)``.

        Args:
            participant: The teacher.
            data: Its training examples and the public set.
            work: Unused.
            context: Unused.

        Raises:
            PrivateExamplesError: If the ensemble asks for what is made of examples protected by DP-SGD.
        """
        del participant, work, context
        if not self.ensemble.has_own_message:
            return {OUTPUTS: data.public_outputs}
        try:
            features = data.public_features
            return {OUTPUTS: at_least_float32(self.ensemble.message(data.public_outputs, features, data))}
        except PrivateExamplesError as error:
            raise PrivateExamplesError(f"{error} It is {type(self.ensemble).__name__} that asks for them.") from error

    def message_layout(self, participant: Participant, data: ParticipantData) -> Message | None:
        """Layout of the outputs, shape ``(P, C)``; None if the ensemble asks for what has to be made to be known.

        Args:
            participant: The teacher.
            data: The public set.
        """
        del participant
        if not data.reads_public:
            return {}
        return None if self.ensemble.has_own_message else {OUTPUTS: data.public_layout}

    def fault_of(self, message: Message, kind: str) -> str:
        """Reason for which outputs cannot be distilled: not finite, or too large; empty if they can.

        Args:
            message: Outputs on the public set, shape ``(P, C)``.
            kind: Kind of outputs, such as ``"multiclass"``.
        """
        return why_not_heard(message[OUTPUTS], kind)

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        """Softened targets of the ensemble, shape ``(P, C)``, the agreement of its teachers, and the classes it names.

        Args:
            sent: Finite outputs on the public set by teacher, shape ``(P, C)`` each.
            asked: Names of all teachers that were asked.
            about: Descriptions of all participants that read the public set.
            server: Validation scores of the teachers.
            round_index: Index of the round, which sets the temperature.

        Raises:
            RuntimeError: If no teacher is left.
        """
        if not sent:
            raise RuntimeError(
                f"Round {round_index}: no teacher has finite predictions on the public set; asked: {', '.join(asked)}."
            )
        kind, _ = outputs_of(about[next(iter(sent))]) or ("", 0)
        answers, are_messages = {name: one[OUTPUTS] for name, one in sent.items()}, self.ensemble.has_own_message
        teachers = TeacherKnowledge.of(about, server.scores).teachers(answers, kind, are_messages=are_messages)
        self.agreement = None
        if kind in KINDS and not are_messages:
            # When outputs of another kind say the same nobody knows.
            self.agreement = (tuple(sent), agreement_matrix(teachers.logits, kind).cpu())
        targets = self.ensemble(teachers, value_in(self.temperature, round_index)).detach()
        figures = {} if self.agreement is None else {"teacher_agreement": mean_agreement(self.agreement[1])}
        if kind == "multiclass":
            figures["target_classes"] = effective_classes(targets)
            self._tell_of_few_classes(figures["target_classes"], targets.shape[1], round_index)
        return Combined({TARGETS: targets}, figures | self.ensemble.figures(teachers))

    def _tell_of_few_classes(self, found: float, classes: int, round_index: int) -> None:
        """Warn once of targets of hardly any class, which all students would learn."""
        if found < max(FEWEST_CLASSES, classes / 4) and not self._has_told_of_classes:
            self._has_told_of_classes = True
            log.warning(
                "Round %d: the targets that %s makes name %.1f of %d classes in effect. If the public set has more, "
                "networks of teachers may have died (lower the learning rate, or the weight of the distillation), or "
                "one teacher outvotes the others.",
                round_index, self.title, found, classes,
            )  # fmt: skip

    def teachers(self, answers: Mapping[str, Tensor], kind: str) -> Teachers:
        """Outputs of K teachers with the data sizes and validation scores in the checkpoint that was read.

        Args:
            answers: Outputs on the public set by teacher, shape ``(P, C)`` each.
            kind: Kind of outputs, such as ``"multiclass"``.
        """
        return self._known.teachers(answers, kind, are_messages=self.ensemble.has_own_message)

    # Learning

    def plan(self, participant: Participant, moment: Moment, round_index: int) -> Sequence[Part]:
        """Passes over the public set after a result, or in a newcomer's first round; public batches in local steps.

        Args:
            participant: Participant, or the student.
            moment: ``"local"`` in ``"mixed"`` mode, ``"received"`` for a phase, ``"joined"`` for lessons.
            round_index: Index of the round, from 0.
        """
        if participant.name == STUDENT:
            _, student = self.learners(has_student=True)
            phase = [Part(epochs=self.epochs, on="public", batch_size=self.batch_size)]
            return phase if student and moment == "received" else []
        mutual, _ = self.learners(has_student=self._has_student)
        if moment == "received" and mutual and self.mode == "phase":
            return [Part(epochs=self.epochs, on="public", batch_size=self.batch_size, optimizer=self.optimizer)]
        if moment == "local" and self.mixes(round_index, has_student=self._has_student):
            return [Part(on="both", batch_size=self.batch_size, last_epochs=self.mixed_epochs)]
        if moment == "joined" and participant.transfer is not None and participant.transfer.distillation_epochs:
            passes = participant.transfer.distillation_epochs
            return [Part(epochs=passes, on="public", batch_size=self.batch_size, optimizer=self.optimizer)]
        return []

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
        """Weighted distillation losses of public examples, shape ``(B,)``.

        Args:
            own: None.
            inputs: Unused.
            features: Unused.
            outputs: Outputs of the student, shape ``(B, C)``.
            target: Places of the examples in the public set, shape ``(B,)``.
            on: ``"public"``.
            context: Softened targets of the public set, the round and the task.
        """
        del own, inputs, features, on
        temperature, weight = (value_in(one, context.round_index) for one in (self.temperature, self.weight))
        return soft_losses(context.task, outputs, context.received[TARGETS][target], temperature, weight)

    def public_shape(self, federation: FederationView, fleet: Fleet) -> LossShape:
        """Function of :meth:`example_loss` for a fleet's members, which depends on their outputs alone."""
        is_own = type(self).example_loss is EnsembleDistillation.example_loss
        return replace(super().public_shape(federation, fleet), of_outputs=is_own)

    def public_stream(self, moment: Moment) -> str:
        """First name of the random streams that order a participant's public examples at a moment."""
        return "public" if moment == "local" else "distil"

    @property
    def targets(self) -> Tensor | None:
        """Softened targets of the public set in force, shape ``(P, C)``; None before an exchange of the round."""
        return None if self.carrier is None else self.carrier.last(GROUP).get(TARGETS)

    def on_round_started(self, federation: FederationView, round_index: int) -> None:
        """Hand out the targets of the round's start, and teach pupils that had joined earlier.

        Args:
            federation: The federation, in the round.
            round_index: Index of the round, from 0.
        """
        super().on_round_started(federation, round_index)
        newcomers = federation.newcomers(round_index)
        pupils = self.pupils(round_index, self._about, federation)
        self.teach(federation, [name for name in pupils if name not in newcomers], round_index)

    def on_join(self, trainer: L.Trainer, federation: FederationView, names: Sequence[str], round_index: int) -> None:
        """Teach sampled newcomers whose ``transfer`` asks for it with the ensemble of the earlier participants."""
        del trainer
        pupils = self.pupils(round_index, self._about, federation)
        self.teach(federation, [name for name in pupils if name in names], round_index)

    def teach(self, federation: FederationView, pupils: Sequence[str], round_index: int) -> None:
        """Teach newcomers the targets in force, with the frozen rounds of their ``transfer`` heeded.

        Args:
            federation: The federation, in the round in which they join.
            pupils: Names of the newcomers.
            round_index: Index of the round, from 0.
        """
        with ExitStack() as lessons:
            for name in filter(federation.ranks.hosts, pupils):
                lessons.enter_context(taught(federation[name], round_index))
            work_on_plans(federation, self, pupils, "joined", round_index)

    # Checkpoints

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        samples, counts = state_dict.get("samples", {}), state_dict.get("class_counts", {})
        # A run finds both in its data; who joins a trained federation has not got that.
        self._known = TeacherKnowledge(dict(samples), dict(counts), dict(state_dict["scores"]))
        super().load_state_dict(state_dict)

    def as_saved(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Data sizes and scores of the teachers, and the targets of a round in progress.

        Args:
            found: State of the carrier; empty without one.
        """
        server = found.get("server", {"memory": {}, "scores": self._known.scores})
        return {
            "scores": dict(server["scores"]),
            "targets": server["memory"][GROUP]["last"].get(TARGETS) if GROUP in server["memory"] else None,
            "samples": dict(self._known.samples),
            "class_counts": dict(self._known.class_counts),
            "memory": found.get("memory", {}),
        }

    @staticmethod
    def memory_of(saved: Mapping[str, Any]) -> dict[str, Any]:
        """State of a carrier, from the state in a checkpoint.

        Args:
            saved: Result of :meth:`state_dict`, also of an older version.
        """
        last = {} if saved["targets"] is None else {TARGETS: saved["targets"]}
        memory = {GROUP: {"last": last, "own": {}, "tensors": {}, "kept": {}}}
        groups = {GROUP: list(saved.get("samples", {}))}
        server = {"groups": groups, "memory": memory, "scores": saved["scores"]}
        return {"server": server, "memory": saved.get("memory", {})}


def _readers(names: Iterable[str], about: About) -> list[str]:
    """Those of ``names`` who read something of the public set."""
    return [name for name in names if outputs_of(about.get(name, {})) is not None]


def _check_alike(who: str, own: tuple[str, int], first: str, others: tuple[str, int] | None) -> None:
    if others is not None and own != others:
        raise ValueError(
            f"{who} has {own[1]} {own[0]} output(s), {first} has {others[1]} {others[0]}: participants that distil "
            "must have one task and one label space."
        )


def check_kind(participant: Participant, ensemble: Ensemble) -> None:
    """Refuse outputs that an ensemble cannot combine, or a task that cannot learn from its targets.

    Args:
        participant: Teacher or student.
        ensemble: Combination of the teachers' outputs.

    Raises:
        ValueError: If it cannot; names the participant, its task, and what to change.
    """
    task, kind, own = participant.task, participant.task.kind, type(participant.task).__name__
    combines = f"{type(ensemble).__name__} combines {', '.join(ensemble.kinds)} outputs"
    if kind not in ensemble.kinds and kind in KINDS:
        raise ValueError(
            f"{participant.label}: {combines}, but those of its {own} are {kind}: "
            "choose another ensemble, such as MeanProbabilities."
        )
    if kind not in ensemble.kinds:
        raise ValueError(
            f"{participant.label}: {combines}, and its {own} is of kind {kind!r}. "
            f"Set the task's kind to what its outputs are: {says_of_kinds()}. Or write an Ensemble whose kinds has "
            f"{kind!r}, and a distillation_loss of the task; or leave EnsembleDistillation out."
        )
    if not task.distils:
        raise ValueError(
            f"{participant.label}: {own} is of kind {kind!r} and has no distillation_loss(outputs, targets, "
            f"temperature) of its own. Write it, or set kind to what the outputs are: {says_of_kinds()}."
        )


def _abstaining(federation: FederationView, inputs: Any) -> frozenset[str]:
    """Participants who read nothing of a public batch: they neither teach nor learn.

    Raises:
        ValueError: If that is everyone, or the student.
    """
    everyone = federation.everyone()
    names = [name for name in everyone if not federation.plans.reads_public(federation, name)]
    found = ", ".join(map(repr, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
    if STUDENT in names or len(names) == len(federation.participants):
        who = "the student reads nothing" if STUDENT in names else "no participant reads anything"
        raise ValueError(
            f"EnsembleDistillation: {who} of the public set, which has {found}; name its inputs as theirs."
        )
    return frozenset(names)


def _check_settings(temperature: float | RoundSchedule, weight: float | RoundSchedule, round_index: int) -> None:
    check_temperature(value_in(temperature, round_index))
    if not 0 <= value_in(weight, round_index) < float("inf"):
        value = value_in(weight, round_index)
        raise ValueError(f"weight: expected a finite number of at least 0, got {value} in round {round_index}.")
