"""Loss, predictions and counts of one participant's batch, from which its metrics are updated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from hetfed_lightning.logs.batched_accuracy import Counts
from hetfed_lightning.tasks import Task


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Result of one evaluated batch.

    Attributes:
        loss: Loss of the batch, a scalar.
        predictions: Values of ``Task.predictions``, shape ``(B, ...)``.
        width: Outputs per example, C.
        counts: Numbers of right and wrong predictions; None if they have not been counted.
    """

    loss: Tensor
    predictions: Tensor
    width: int
    counts: Counts | None = None

    @classmethod
    def of(cls, task: Task, outputs: Tensor, target: Tensor) -> Self:
        """Result of one participant's batch.

        Args:
            task: Task of the participant.
            outputs: Outputs of the network, shape ``(B, C)`` or ``(B,)``.
            target: Targets of the B examples.
        """
        width = 1 if outputs.ndim == 1 else outputs.shape[-1]
        return cls(task.loss(outputs, target), task.predictions(outputs), width)
