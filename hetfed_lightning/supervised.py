"""One batch of a participant's own examples on its way through the network: inputs, features, outputs, losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hetfed_lightning.tasks import Task


@dataclass(frozen=True, eq=False)
class Supervised:
    """A batch with what the network makes of it, with gradients.

    Attributes:
        inputs: As the backbone takes them.
        features: Output of the backbone, shape ``(B, D)``.
        outputs: Output of the head, shape ``(B, C)``.
        target: Of B examples.
    """

    inputs: Any
    features: Tensor
    outputs: Tensor
    target: Tensor

    def losses(self, task: Task) -> Tensor:
        """Loss of each example, shape ``(B,)``, scaled so that the mean is the task's loss of the batch."""
        losses, weights = task.example_losses(self.outputs, self.target)
        return losses * (len(losses) / weights.sum())
