"""Distillation loss by example against softened targets of the public set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hetfed_lightning.distillation.outputs import at_least_float32, two_columns
from hetfed_lightning.fleets.compatibility import keeps_up
from hetfed_lightning.methods.augmentation import PublicTransform
from hetfed_lightning.methods.public_examples import public_batch
from hetfed_lightning.tasks import Task

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.methods.plans import Moment
    from hetfed_lightning.participants.participant import Participant


def soft_losses(task: Task, outputs: Tensor, targets: Tensor, temperature: float, weight: float) -> Tensor:
    """Weighted distillation losses, shape ``(B,)``, whose mean is that of the batch.

    Of a task with a ``distillation_loss`` of its own and no ``example_distillation_losses`` each is that of the batch.

    Args:
        task: Task of the student.
        outputs: Its outputs, shape ``(B, C)``.
        targets: Softened targets, shape ``(B, C)``.
        temperature: Softens outputs and targets; above 0.
        weight: Weight of the loss, at least 0.
    """
    outputs = at_least_float32(two_columns(outputs))
    targets = targets.to(outputs)
    if keeps_up(type(task), "example_distillation_losses", "distillation_loss"):
        return weight * task.example_distillation_losses(outputs, targets, temperature)
    return (weight * task.distillation_loss(outputs, targets, temperature)).expand(len(outputs))


@dataclass(frozen=True)
class Lesson:
    """Targets that no method of the run has sent, with the settings of learning them.

    Attributes:
        title: Name of the callback that teaches.
        targets: Softened targets of the public set, shape ``(P, C)``.
        temperature: Temperature of the targets, above 0.
        weight: Weight of the distillation loss, at least 0.
        public_transform: Transform of the public inputs that are learned from; None to take them as they are.
        shares_order: True if all participants see the public examples in one order.
    """

    title: str
    targets: Tensor
    temperature: float
    weight: float = 1.0
    public_transform: PublicTransform | None = None
    shares_order: bool = False

    def public_stream(self, moment: Moment) -> str:
        """First name of the random streams that order a participant's public examples."""
        del moment
        return "distil"

    def public_loss(
        self,
        federation: FederationView,
        participant: Participant,
        indices: Tensor,
        augment: Callable[[Any], Any] | None = None,
    ) -> Tensor:
        """Distillation loss of one participant, a scalar.

        Args:
            federation: The federation, in a round.
            participant: Student.
            indices: Places of public examples, shape ``(B,)``.
            augment: Function of the backbone's inputs, given if there is a ``public_transform``.
        """
        seen = public_batch(federation, participant, indices, augment)
        targets = self.targets[indices.to(self.targets.device)]
        return soft_losses(participant.task, seen.outputs, targets, self.temperature, self.weight).mean()
