"""One batch of a participant's own examples: inputs, features, outputs, target and losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hetfed_lightning.tasks import Task


@dataclass(frozen=True, eq=False)
class Supervised:
    """Batch with the network's features and outputs, which carry gradients.

    Attributes:
        inputs: Inputs after the participant's transform, of B examples.
        features: Output of the backbone, shape ``(B, D)``.
        outputs: Output of the head, shape ``(B, C)``.
        target: Target of B examples, shape ``(B,)`` or ``(B, C)``.
    """

    inputs: Any
    features: Tensor
    outputs: Tensor
    target: Tensor

    def losses(self, task: Task) -> Tensor:
        """Loss of each example, shape ``(B,)``, scaled so that its mean is the task's loss of the batch."""
        losses, weights = task.example_losses(self.outputs, self.target)
        return losses * (len(losses) / weights.sum())
