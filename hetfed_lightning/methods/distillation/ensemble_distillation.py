"""Distillation of the participants' ensemble on a public set, into the participants or into one unified student."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from hetfed_lightning.batches import split_batch
from hetfed_lightning.distillation import Ensemble, MeanProbabilities, Teachers, check_temperature
from hetfed_lightning.distillation.outputs import KINDS, says_of_kinds
from hetfed_lightning.federated_callback import Career, FederatedCallback, Phase
from hetfed_lightning.local_training.step_checks import check_follows
from hetfed_lightning.methods.distillation.distillation_phase import LearningPhase
from hetfed_lightning.methods.distillation.fleet_distillation import DistillationTerm
from hetfed_lightning.methods.distillation.soft_targets import Lesson
from hetfed_lightning.methods.distillation.teacher_outputs import finite_answers, own_answers
from hetfed_lightning.metrics import agreement_matrix, mean_agreement, payload_bytes
from hetfed_lightning.participants.first_batch import check_last_public_batch, first_batch, outputs_of
from hetfed_lightning.participants.newcomer import taught
from hetfed_lightning.participants.participant import STUDENT, output_width
from hetfed_lightning.schedules import RoundSchedule, value_in
from hetfed_lightning.seeding import stream_generator

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import lightning as L

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.terms import FleetTerm
    from hetfed_lightning.participants.participant import Participant, Stage

log = logging.getLogger(__name__)


class EnsembleDistillation(FederatedCallback):
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

    Raises:
        ValueError: If a setting is out of its range; before training, if there is no public set or the outputs of
            teachers and students do not agree.

    Reference:
        Hinton, Vinyals and Dean (2015), Distilling the Knowledge in a Neural Network, eq. 1 and section 2.1; Lin et al.
        (2020), Ensemble Distillation for Robust Model Fusion in Federated Learning (a server student); Li and Wang
        (2019), FedMD (mutual, by logits). Ours distils probabilities rather than FedMD's logits.
    """

    phase = Phase.DISTILLATION

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
        self.agreement: tuple[tuple[str, ...], Tensor] | None = None
        self._abstaining: frozenset[str] = frozenset()
        self._scores: dict[str, float] = {}
        self._class_counts: dict[str, Tensor] = {}
        self._samples: dict[str, int] = {}
        self._targets: Tensor | None = None
        self._lessons: Tensor | None = None
        self._order: dict[str, tuple[int, Tensor]] = {}

    @property
    def title(self) -> str:
        """Name of the method in tags and messages."""
        return "distillation" if self.name is None else f"distillation:{self.name}"

    @property
    def state_key(self) -> str:
        """Key of the state in checkpoints; distinct for two of a class by their ``name``."""
        return super().state_key if self.name is None else f"{super().state_key}:{self.name}"

    # Before training

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Drop the state of an earlier run, unless its trainer goes on; a checkpoint is read after this."""
        del pl_module
        if stage == "fit" and trainer.current_epoch == 0:
            self.load_state_dict({"scores": {}, "targets": None})

    def prepare(self, trainer: L.Trainer, federation: FederationView) -> None:
        """Refuse teachers and students whose outputs do not agree, and schedules that leave their range."""
        for round_index in range(trainer.max_epochs or 0):
            _check_settings(self.temperature, self.weight, round_index)
        check_follows("EnsembleDistillation(optimizer=...)", self.optimizer)
        data = federation.federated_data
        if data.num_public == 0:
            raise ValueError(
                "EnsembleDistillation needs a public set, and the data module has none: give "
                "FederatedDataModule(public=...) (public_size in the built-in data modules)."
            )
        if self.students in {"student", "both"} and federation.student is None:
            raise ValueError(f"students={self.students!r} needs Federation(student=Participant(...)), which is None.")
        inputs = data.public_inputs(torch.arange(1))
        self._abstaining = _abstaining(federation, inputs)
        readers = {name: one for name, one in federation.everyone().items() if name not in self._abstaining}
        for participant in readers.values():
            check_kind(participant, self.ensemble)
        first: tuple[str, str, int] | None = None
        for name, participant in readers.items():
            width = output_width(outputs_of(participant, inputs, "the public set"))
            kind = participant.task.kind
            first = first or (participant.label, kind, width)
            if (kind, width) != first[1:]:
                raise ValueError(
                    f"{participant.label} has {width} {kind} output(s), {first[0]} has {first[2]} {first[1]}: "
                    "participants that distil must have one task and one label space."
                )
            self._check_batches(federation, name, inputs)
            if self.ensemble.has_own_message and participant.privacy is not None:
                own_answers(federation, [name], self.ensemble)  # Refused where it reads private examples.
            if name != STUDENT and _has_targets(federation, name):
                counts = participant.task.class_counts(data.train_targets(name), width)
                self.meet(name, data.num_samples(name), counts)

    def _check_batches(self, federation: FederationView, name: str, inputs: Any) -> None:
        """Refuse a last public batch of one example for who learns and cannot train on it."""
        mutual, student = self.learners(has_student=federation.student is not None)
        if student if name == STUDENT else mutual:
            check_last_public_batch(
                federation[name], inputs, federation.federated_data.num_public, self.batch_size,
                "EnsembleDistillation(batch_size=...)",
            )  # fmt: skip

    def meet(self, name: str, samples: int, class_counts: Tensor | None) -> None:
        """Register a teacher's data sizes, by which ensembles weight it.

        Args:
            name: Name of the teacher.
            samples: Number of its training examples.
            class_counts: Training examples by class, shape ``(C,)``; None for a task without classes.
        """
        self._samples[name] = samples
        if class_counts is not None:
            self._class_counts[name] = class_counts

    def learners(self, *, has_student: bool) -> tuple[bool, bool]:
        """True if the participants learn, and True if the student does, as a pair."""
        if self.students == "auto":
            return not has_student, has_student
        return self.students in {"mutual", "both"}, self.students in {"student", "both"}

    def further_steps(self, federation: FederationView, name: str, career: Career) -> int:
        """Number of steps of phases and of a newcomer's lessons by the participant's own optimizer."""
        data, participant = federation.federated_data, federation[name]
        if data.num_public == 0 or (self.optimizer is not None and name != STUDENT):
            return 0
        if not participant.reads_any_of(data.public_inputs(torch.arange(1))):
            return 0
        batches = math.ceil(data.num_public / self.batch_size)
        mutual, student = self.learners(has_student=federation.student is not None)
        learns = student if name == STUDENT else mutual and self.mode == "phase"
        due = sum(map(self.is_due, career.rounds)) if learns else 0
        steps = due * math.ceil(self.epochs * batches / participant.accumulate_grad_batches)
        if name != STUDENT and participant.transfer is not None and career.joins_at > 0 and career.rounds:
            passes = participant.transfer.distillation_epochs
            steps += math.ceil(passes * batches / participant.accumulate_grad_batches)
        return steps

    def is_due(self, round_index: int) -> bool:
        """True if a round distils."""
        return round_index >= self.start_round and (round_index - self.start_round) % self.every_n_rounds == 0

    def _readers(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` who read something of the public set."""
        return [name for name in names if name not in self._abstaining]

    # The round

    def on_round_start(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Compute the targets before the local steps: in ``"mixed"`` mode, and for newcomers not sampled on joining."""
        del trainer
        self.set_targets(None)
        mutual, _ = self.learners(has_student=federation.student is not None)
        pupils = self._pupils(federation, round_index)
        teachers = self._teachers_before(federation, round_index, pupils)
        if self.mode == "mixed" and mutual and self.is_due(round_index) and teachers:
            self._targets = self._ask(federation, teachers, round_index)
            students = self._readers(federation.active_names(round_index))
            federation.count_bytes(self.title, down=payload_bytes(self._targets) * len(students))
        newcomers = federation.newcomers(round_index)
        self._give_lessons(federation, [name for name in pupils if name not in newcomers], round_index)

    def on_join(self, trainer: L.Trainer, federation: FederationView, names: Sequence[str], round_index: int) -> None:
        """Teach sampled newcomers whose ``transfer`` asks for it with the ensemble of the earlier participants."""
        del trainer
        pupils = self._pupils(federation, round_index)
        self._give_lessons(federation, [name for name in names if name in pupils], round_index)

    def _pupils(self, federation: FederationView, round_index: int) -> list[str]:
        """Who trains for the first time in this round, having joined a federation that there was, and asks for lessons.

        One that is not drawn in the round in which it joins holds what is shared on loan, and learns when it is drawn.
        """
        found = []
        for name in self._readers(federation.active_names(round_index)):
            transfer, joins_at = federation[name].transfer, federation[name].joins_at
            if transfer is None or transfer.distillation_epochs == 0 or joins_at == 0:
                continue
            if not any(name in federation.active_names(earlier) for earlier in range(joins_at, round_index)):
                found.append(name)
        return found

    def _teachers_before(self, federation: FederationView, round_index: int, pupils: Sequence[str]) -> list[str]:
        """Those who were there before the round and know something of it."""
        new = {*federation.newcomers(round_index), *pupils}
        return [name for name in self._readers(federation.joined(round_index)) if name not in new]

    def _give_lessons(self, federation: FederationView, pupils: Sequence[str], round_index: int) -> None:
        teachers = self._teachers_before(federation, round_index, self._pupils(federation, round_index))
        if not pupils or not teachers:
            return
        if self._lessons is None:  # Where the local steps distil too, the same teachers have just answered.
            asked = self._ask(federation, teachers, round_index) if self._targets is None else self._targets
            self._lessons = asked
        federation.count_bytes(self.title, down=payload_bytes(self._lessons) * len(pupils))
        passes = {
            name: transfer.distillation_epochs for name in pupils if (transfer := federation[name].transfer) is not None
        }
        self.teach(federation, passes, self._lessons, round_index)

    def teach(self, federation: FederationView, pupils: Mapping[str, int], targets: Tensor, round_index: int) -> None:
        """Teach newcomers, with the frozen rounds of their ``transfer`` heeded.

        Args:
            federation: The federation, in the round in which they join.
            pupils: Passes over the public set by newcomer.
            targets: Softened targets of the public set, shape ``(P, C)``.
            round_index: Index of the round, from 0.
        """
        for name in filter(federation.ranks.hosts, pupils):
            lesson = self._lesson(federation, targets, round_index)
            phase = LearningPhase(lesson, round_index, pupils[name], self.batch_size, self.optimizer)
            with taught(federation[name], round_index):
                phase.alone(federation[name])
        federation.ranks.synchronise(list(pupils))

    def set_targets(self, targets: Tensor | None) -> None:
        """Set the targets of a round's local steps.

        Args:
            targets: Softened targets of the public set, shape ``(P, C)``; None if the local steps do not distil.
        """
        self._targets, self._lessons = targets, None
        self._order = {}

    def adds_to_loss(self, federation: FederationView) -> bool:
        """True if the local steps of this round distil."""
        del federation
        return self._targets is not None

    def local_loss(self, federation: FederationView, participant: Participant, batch_idx: int) -> Tensor | None:
        """Distillation loss on a public batch in ``"mixed"`` mode, a scalar; None if this step does not distil."""
        name = participant.name
        if self._targets is None or name is None or name == STUDENT:
            return None
        indices = self._learned_in(federation, name, batch_idx)
        if indices is None:
            return None
        return self._lesson(federation, self._targets, federation.current_round).loss(participant, indices)

    def fleet_term(self, federation: FederationView, fleet: Fleet) -> FleetTerm | None:
        """Distillation term of a fleet's members in ``"mixed"`` mode; None if this round does not distil."""
        if self._targets is None:
            return None
        lesson = self._lesson(federation, self._targets, federation.current_round)
        return DistillationTerm(lesson, fleet, partial(self._learned_in, federation))

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Compute the targets now and distil, in ``"phase"`` mode and for the student."""
        del trainer
        self._targets = None
        mutual, student = self.learners(has_student=federation.student is not None)
        teachers = self._readers(federation.contributors())
        names = teachers if mutual and self.mode == "phase" else []
        names = names + ([STUDENT] if student else [])
        if not names or not teachers or not self.is_due(round_index):
            return
        targets = self._ask(federation, teachers, round_index)
        names = [name for name in names if name not in federation.guard.quarantined]
        learners = sum(name != STUDENT for name in names)
        federation.count_bytes(self.title, down=payload_bytes(targets) * learners)
        self.learn(federation, names, targets, round_index)

    def learn(self, federation: FederationView, names: Sequence[str], targets: Tensor, round_index: int) -> None:
        """Train participants, or the student, on the targets in a phase.

        Args:
            federation: The federation, in a round.
            names: Names of the students.
            targets: Softened targets of the public set, shape ``(P, C)``.
            round_index: Index of the round, from 0.
        """
        left = dict.fromkeys(filter(federation.ranks.hosts, names))
        phase = self._phase(federation, targets, round_index)
        for fleet in federation.fleets.learners(left):
            if phase.together(fleet):
                for one in fleet.members:
                    del left[one.name]
        for name in left:
            self._distil(federation, federation[name], targets, round_index)
        federation.ranks.synchronise(names)

    def _phase(self, federation: FederationView, targets: Tensor, round_index: int) -> LearningPhase:
        lesson = self._lesson(federation, targets, round_index)
        return LearningPhase(lesson, round_index, self.epochs, self.batch_size, self.optimizer)

    def _distil(self, federation: FederationView, participant: Participant, targets: Tensor, round_index: int) -> None:
        self._phase(federation, targets, round_index).alone(participant)

    def _lesson(self, federation: FederationView, targets: Tensor, round_index: int) -> Lesson:
        temperature, weight = value_in(self.temperature, round_index), value_in(self.weight, round_index)
        return Lesson(federation, targets, temperature, weight)

    def _learned_in(self, federation: FederationView, name: str, step: int) -> Tensor | None:
        """Indices of the public batch of a local step; None in steps that do not distil, and for who abstains."""
        if name in self._abstaining:
            return None
        source = federation.federated_data.source(name)
        epochs = federation.work_of(name, federation.current_round).passes(source)
        if self.mixed_epochs is not None and self.mixed_epochs < epochs:
            steps = federation.train_loader().full_steps_of(name, federation.current_round)
            # In whole numbers: 9 * (1 - 2 / 3) is more than 3.
            if step * epochs < steps * (epochs - self.mixed_epochs):
                return None
        return self._public_batch(federation, name, step)

    def _public_batch(self, federation: FederationView, name: str, step: int) -> Tensor:
        """Indices of the public batch of a local step: pass after pass, each in an order of its own."""
        size = federation.federated_data.num_public
        batches = -(-size // self.batch_size)
        sweep, position = divmod(step, batches)
        if self._order.get(name, (-1,))[0] != sweep:
            generator = stream_generator(federation.seed, "public", name, federation.current_round, sweep)
            self._order[name] = (sweep, torch.randperm(size, generator=generator))
        return self._order[name][1][position * self.batch_size : (position + 1) * self.batch_size]

    # The teachers

    def _ask(self, federation: FederationView, names: list[str], round_index: int) -> Tensor:
        """Softened targets of the ensemble on the whole public set, shape ``(N, C)``."""
        asked = finite_answers(federation, names, round_index, self.ensemble)
        federation.count_bytes(self.title, up=payload_bytes(list(asked.values())))
        targets = self.combine(asked, federation[next(iter(asked))].task.kind, round_index)
        federation.log_round(self.figures())
        return targets

    @torch.no_grad()
    def combine(self, answers: Mapping[str, Tensor], kind: str, round_index: int) -> Tensor:
        """Softened targets of the ensemble, shape ``(P, C)``, from the outputs of its teachers.

        Args:
            answers: Finite outputs on the public set by teacher, shape ``(P, C)`` each.
            kind: Kind of outputs, such as ``"multiclass"``.
            round_index: Index of the round, which sets the temperature.
        """
        teachers = self.teachers(answers, kind)
        self.agreement = None
        if (
            kind in KINDS and not self.ensemble.has_own_message
        ):  # When outputs of another kind say the same nobody knows.
            self.agreement = (tuple(answers), agreement_matrix(teachers.logits, teachers.kind).cpu())
        return self.ensemble(teachers, value_in(self.temperature, round_index)).detach()

    def figures(self) -> dict[str, float]:
        """Agreement of the last teachers, by tag; empty before the first round that distils."""
        return {} if self.agreement is None else {"federation/teacher_agreement": mean_agreement(self.agreement[1])}

    def teachers(self, answers: Mapping[str, Tensor], kind: str) -> Teachers:
        """Outputs of K teachers with their data sizes and validation scores, the input of ensembles.

        Args:
            answers: Outputs on the public set by teacher, shape ``(P, C)`` each.
            kind: Kind of outputs, such as ``"multiclass"``.
        """
        logits = torch.stack(list(answers.values()))
        device = logits.device
        known = bool(self._class_counts) and self._class_counts.keys() >= set(answers)
        counts = [self._class_counts[name] for name in answers] if known else None
        return Teachers(
            logits=logits,
            kind=kind,
            names=tuple(answers),
            samples=torch.tensor([float(self._samples.get(name, 1)) for name in answers], device=device),
            class_counts=None if counts is None else torch.stack(counts).to(device),
            # Before the first validation all count the same.
            scores=torch.tensor(
                [self._scores.get(name, 1.0 if not self._scores else 0.0) for name in answers], device=device
            ),
            are_messages=self.ensemble.has_own_message,
        )

    def on_metrics(
        self, trainer: L.Trainer, federation: FederationView, stage: Stage, values: Mapping[str, float]
    ) -> None:
        """Record each participant's own validation score, for ensembles that weight by it."""
        if stage != "val" or trainer.sanity_checking:
            return
        self.note_scores({name: one.task.headline for name, one in federation.members().items()}, values)

    def note_scores(self, headlines: Mapping[str, str], values: Mapping[str, float]) -> None:
        """Record each teacher's validation score, clamped to [0, 1]; a missing or NaN score leaves the last one.

        Args:
            headlines: Name of the headline metric by participant.
            values: Metrics by tag, such as ``"val_accuracy/hospital_a"``.
        """
        for name, headline in headlines.items():
            score = values.get(f"val_{headline}/{name}")
            if score is not None and score == score:  # noqa: PLR0124 - NaN where a metric could not be computed
                self._scores[name] = min(1.0, max(0.0, score))

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Data sizes and scores of the teachers, and the targets of a round in progress."""
        return {
            "scores": self._scores,
            "targets": self._targets,
            "samples": self._samples,
            "class_counts": self._class_counts,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        self._scores = dict(state_dict["scores"])
        self._targets = state_dict["targets"]
        # A run finds both in its data; who joins a trained federation has not got that.
        self._samples = dict(state_dict.get("samples", {}))
        self._class_counts = dict(state_dict.get("class_counts", {}))
        self._order = {}


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
    """Participants who read nothing of a public batch: they neither teach nor learn; said by name.

    Raises:
        ValueError: If that is everyone, or the student.
    """
    everyone = federation.everyone()
    names = [name for name, one in everyone.items() if not one.reads_any_of(inputs)]
    found = ", ".join(map(repr, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
    if STUDENT in names or len(names) == len(federation.participants):
        who = "the student reads nothing" if STUDENT in names else "no participant reads anything"
        raise ValueError(
            f"EnsembleDistillation: {who} of the public set, which has {found}; name its inputs as theirs."
        )
    for name in names:
        log.info("EnsembleDistillation: %s reads nothing of the public set, which has %s: it neither teaches nor "
                 "learns.",
                 everyone[name].label, found)  # fmt: skip
    return frozenset(names)


def _has_targets(federation: FederationView, name: str) -> bool:
    """Whether a participant's batches are pairs of inputs and target; its own steps may take others."""
    data = federation.federated_data
    return split_batch(first_batch(data.source(name).dataset, collate_fn=data.collate_fn))[1] is not None


def _check_settings(temperature: float | RoundSchedule, weight: float | RoundSchedule, round_index: int) -> None:
    check_temperature(value_in(temperature, round_index))
    if not 0 <= value_in(weight, round_index) < float("inf"):
        value = value_in(weight, round_index)
        raise ValueError(f"weight: expected a finite number of at least 0, got {value} in round {round_index}.")
