"""Softened targets of a round's ensemble and the loss of learning them, for one participant or a whole fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hetfed_lightning.data.blocks import StackedBatch, stacked
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.distillation.outputs import at_least_float32, two_columns
from hetfed_lightning.fleets.compatibility import keeps_up
from hetfed_lightning.methods.public_outputs import on_device
from hetfed_lightning.tasks import Task

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.participants.participant import Participant


@dataclass(frozen=True)
class SoftTargets:
    """Distillation loss as an engine takes it: a sum over examples.

    Attributes:
        task: Task of the students.
        temperature: Softens outputs and targets; above 0.
        weight: Weight of the loss, at least 0.
    """

    task: Task
    temperature: float
    weight: float

    def __post_init__(self) -> None:
        """Refuse a task with a distillation loss of its own, which may be no sum over examples.

        Raises:
            TypeError: If the task's loss is not known to be such a sum.
        """
        if not keeps_up(type(self.task), "example_distillation_losses", "distillation_loss"):
            raise TypeError(f"{type(self.task).__name__} has no example_distillation_losses for its distillation_loss")

    def example_losses(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and ones, shape ``(B,)`` each.

        Args:
            outputs: Outputs of the student, shape ``(B, C)``.
            target: Softened targets, shape ``(B, C)``.
        """
        outputs = at_least_float32(two_columns(outputs))
        losses = self.task.example_distillation_losses(outputs, target.to(outputs), self.temperature)
        return self.weight * losses, torch.ones_like(losses)


@dataclass(frozen=True)
class Lesson:
    """Targets of a round with the settings of learning them.

    Attributes:
        federation: Federation whose public set the targets belong to.
        targets: Softened targets of the public set, shape ``(P, C)``.
        temperature: Temperature of the targets, above 0.
        weight: Weight of the distillation loss, at least 0.
    """

    federation: FederationView
    targets: Tensor
    temperature: float
    weight: float

    def loss(self, participant: Participant, indices: Tensor) -> Tensor:
        """Distillation loss of one participant, a scalar.

        Args:
            participant: Student.
            indices: Indices of public examples, shape ``(B,)``.
        """
        outputs = at_least_float32(two_columns(participant(self.inputs_of(participant, indices))))
        targets = self._targets_of(indices).to(outputs)
        return self.weight * participant.task.distillation_loss(outputs, targets, self.temperature)

    def inputs_of(self, participant: Participant, indices: Tensor) -> Any:
        """Public examples as inputs of a participant's backbone.

        Args:
            participant: Student.
            indices: Indices of public examples, shape ``(B,)``.
        """
        return participant.transformed(on_device(self.federation, indices))

    def losses_of(self, task: Task) -> SoftTargets:
        """Distillation loss by example for participants of a task."""
        return SoftTargets(task, self.temperature, self.weight)

    def block(self, indices: Sequence[Tensor], inputs: Sequence[Any] | None = None) -> StackedBatch:
        """Public batch of each of several participants, stacked.

        Args:
            indices: Indices of public examples, shape ``(B,)`` for each participant.
            inputs: Transformed inputs of each participant; None if no participant has a transform.

        Raises:
            TypeError: If inputs are no tensors, or of different shapes.
        """
        if inputs is None and (block := self._gathered(torch.stack(list(indices)))) is not None:
            return block
        inputs = [on_device(self.federation, own) for own in indices] if inputs is None else inputs
        targets = [self._targets_of(own) for own in indices]
        found = stacked(list(zip(inputs, targets, strict=True)))
        if found is None or found.mask is not None:
            raise TypeError("public batches of several participants cannot be stacked")
        return found

    def _gathered(self, indices: Tensor) -> StackedBatch | None:
        """All batches as one, of which each is a part; None where a batch depends on which examples are together.

        Args:
            indices: Shape ``(K, B)``.
        """
        data = self.federation.federated_data
        if data.collate_fn is not None and not isinstance(data.data.public, Examples):
            return None
        inputs, shape = on_device(self.federation, indices.flatten()), tuple(indices.shape)
        if isinstance(inputs, Mapping) and all(isinstance(value, Tensor) for value in inputs.values()):
            inputs = {key: value.unflatten(0, shape) for key, value in inputs.items()}
        elif isinstance(inputs, Tensor):
            inputs = inputs.unflatten(0, shape)
        else:
            return None
        return StackedBatch(inputs, self._targets_of(indices), None, (shape[1],) * shape[0])

    def _targets_of(self, indices: Tensor) -> Tensor:
        return self.targets[indices.to(self.targets.device)].to(self.federation.device)
