"""Participants that join a trained federation afterwards, with weights or lessons from its participants."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hetfed_lightning.distillation import soften
from hetfed_lightning.distillation.outputs import KINDS, at_least_float32, says_of_kinds, two_columns
from hetfed_lightning.federated_callback import Career, FederatedCallback, Phase
from hetfed_lightning.logs.text import listed
from hetfed_lightning.methods.augmentation_checks import check_public_transform
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation, check_kind
from hetfed_lightning.methods.distillation.soft_targets import Lesson
from hetfed_lightning.methods.planned_work import work_alone
from hetfed_lightning.methods.plans import Part
from hetfed_lightning.methods.public_outputs import BATCH, on_device
from hetfed_lightning.metrics import payload_bytes
from hetfed_lightning.modes import evaluating
from hetfed_lightning.participants.first_batch import check_last_public_batch, outputs_of
from hetfed_lightning.participants.newcomer import inherited_state, taught
from hetfed_lightning.participants.participant import STUDENT, Participant, output_width
from hetfed_lightning.participants.transfer import Transfer

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.federation_view import FederationView

log = logging.getLogger(__name__)


class Inheritance(FederatedCallback):
    """Hands the knowledge of a trained federation to the participants of a run, in its first round.

    A participant whose shared weights equal somebody's there in names and shapes begins with the mean of theirs. It
    freezes them or trains them at a lower rate as its :class:`~hetfed_lightning.Transfer` says; its head may be of any
    size. A participant of a new architecture is taught on the public set of this run for
    ``Transfer.distillation_epochs``: by the student of the trained federation if there is one, else by its ensemble.
    The trained participants stay unchanged.

    Args:
        source: The trained federation.
        distillation: Combination of its teachers, with the sizes and scores that its run recorded, and the transform of
            the public examples of lessons; None for the mean of their probabilities, and no transform.
        batch_size: Public examples per batch, at least 1.

    Raises:
        ValueError: Before training, if a participant can inherit nothing; names it.
    """

    phase = Phase.AVERAGING

    def __init__(
        self, source: FederationView, distillation: EnsembleDistillation | None = None, *, batch_size: int = 64
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}.")
        self.source = source
        self.distillation = distillation or EnsembleDistillation()
        self.batch_size = batch_size
        self.received: dict[str, list[str]] = {}

    def prepare(self, trainer: L.Trainer, federation: FederationView) -> None:
        """Find weights or teachers for every participant."""
        del trainer
        self.received = {}
        for name, participant in federation.members().items():
            _, kin = inherited_state(participant, self.source.members())
            self.received[name] = kin
            lessons = _transfer_of(participant).distillation_epochs
            if lessons:
                self._check_lesson(federation, participant)
            elif not kin:
                raise ValueError(
                    f"{participant.label} can take over nothing: nobody of {listed(list(self.source.members()))} "
                    f"shares all of what it shares ({', '.join(participant.shared) or 'nothing'}) in the same shapes. "
                    "Give it a backbone of theirs, or transfer.distillation_epochs and a public set, on which it "
                    "learns from their answers."
                )
            parts = [f"{len(participant.shared_keys())} shared tensors from {listed(kin)}"] if kin else []
            parts += [f"{lessons} passes over the public set, taught by {self._who()}"] if lessons else []
            log.info("%s takes over %s.", participant.label, " and ".join(parts))

    def _who(self) -> str:
        return "the student" if self.source.student is not None else listed(list(self.source.members()))

    def _check_lesson(self, federation: FederationView, participant: Participant) -> None:
        data = federation.federated_data
        if data.num_public == 0:
            raise ValueError(
                f"{participant.label}: transfer.distillation_epochs needs a public set, and its data module has none: "
                "give FederatedDataModule(public=...), or set it to 0."
            )
        inputs = data.public_inputs(torch.arange(1))
        if not participant.reads_any_of(inputs) or not self._teachers(inputs):
            who = participant.label if not participant.reads_any_of(inputs) else "nobody of the trained federation"
            raise ValueError(
                f"{participant.label}: transfer.distillation_epochs: {who} reads "
                f"{'nothing' if who == participant.label else 'anything'} of the public set. Set it to 0."
            )
        check_last_public_batch(participant, inputs, data.num_public, self.batch_size, "Inheritance(batch_size=...)")
        if (transform := self.distillation.public_transform) is not None:
            who = type(self.distillation).__name__
            check_public_transform(federation, transform, participant.name or "", self.batch_size, who)
        width = output_width(outputs_of(participant, inputs, "the public set"))
        kind = participant.task.kind
        if self.source.student is None:
            check_kind(participant, self.distillation.ensemble)
        elif kind not in KINDS:
            raise ValueError(
                f"{participant.label}: transfer.distillation_epochs: what the student says is softened by its kind, "
                f"and {kind!r} is one of {type(participant.task).__name__}'s own. Set it to what the outputs are: "
                f"{says_of_kinds()}; or distillation_epochs to 0."
            )
        with torch.no_grad():
            for name, teacher in self._teachers(inputs).items():
                there = two_columns(_answer(teacher, inputs)).shape[1]
                if (there, teacher.task.kind) != (width, kind):
                    raise ValueError(
                        f"{participant.label} has {width} {kind} output(s), {name!r} of the trained federation has "
                        f"{there} {teacher.task.kind}: it can take over weights alone. Set "
                        "transfer.distillation_epochs to 0."
                    )

    def further_steps(self, federation: FederationView, name: str, career: Career) -> int:
        """Number of steps of the lessons before the first local step."""
        del career
        if name == STUDENT:
            return 0
        participant = federation[name]
        batches = math.ceil(federation.federated_data.num_public / self.batch_size)
        return math.ceil(_transfer_of(participant).distillation_epochs * batches / participant.accumulate_grad_batches)

    def on_round_start(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Hand over weights and teach, in the first round."""
        del trainer
        if round_index > 0:
            return
        targets: dict[float, Tensor] = {}
        for name, participant in federation.members().items():
            state, _ = inherited_state(participant, self.source.members())
            participant.load_state_of({key: tensor.to(participant.device) for key, tensor in state.items()})
            federation.count_bytes("inheritance", down=payload_bytes(state))
            transfer = _transfer_of(participant)
            if transfer.distillation_epochs:
                temperature = transfer.temperature
                if temperature not in targets:
                    targets[temperature] = self._targets(federation, temperature)
                federation.count_bytes("inheritance", down=payload_bytes(targets[temperature]))
                if federation.ranks.hosts(name):
                    lesson = Lesson(
                        "inheritance",
                        targets[temperature],
                        temperature,
                        public_transform=self.distillation.public_transform,
                    )
                    part = Part(epochs=transfer.distillation_epochs, on="public", batch_size=self.batch_size)
                    with taught(participant, round_index):
                        work_alone(federation, lesson, name, [part], "joined", round_index)
        federation.ranks.synchronise(list(federation.members()))

    def _teachers(self, inputs: Any) -> dict[str, Participant]:
        """Who can say something of public inputs: the student where there is one, everyone else."""
        found = {STUDENT: self.source.student} if self.source.student is not None else self.source.members()
        return {name: one for name, one in found.items() if one.reads_any_of(inputs)}

    @torch.no_grad()
    def _targets(self, federation: FederationView, temperature: float) -> Tensor:
        """What those who are there say of the public set, softened, shape ``(P, C)``."""
        answers = {}
        positions = torch.arange(federation.federated_data.num_public)
        teachers = self._teachers(federation.federated_data.public_inputs(positions[:1]))
        for name, teacher in teachers.items():
            parts = [_answer(teacher, on_device(federation, part)) for part in positions.split(BATCH)]
            answers[name] = torch.cat([at_least_float32(two_columns(part)) for part in parts]).to(federation.device)
        kind = next(iter(teachers.values())).task.kind
        if STUDENT in answers:
            return soften(answers[STUDENT], temperature, kind)
        return self.distillation.ensemble(self.distillation.teachers(answers, kind), temperature)


def _transfer_of(participant: Participant) -> Transfer:
    return participant.transfer or Transfer()


def _answer(teacher: Participant, inputs: Any) -> Tensor:
    """Outputs of a participant that belongs to no run, in evaluation mode."""
    with evaluating(teacher):
        inputs = teacher.transfer_batch_to_device(inputs, teacher.device, 0)
        outputs: Tensor = teacher(teacher.transformed(inputs))
    return outputs
