"""One batch of one participant as its figures need it, by whatever computation it came about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from hetfed_lightning.logs.batched_accuracy import Counts
from hetfed_lightning.tasks import Task


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What a network has said of a batch, beside what was right.

    Attributes:
        loss: A scalar.
        predictions: As ``Task.predictions`` gives them, shape ``(B, ...)``.
        width: Outputs per example, C.
        counts: Of right and wrong predictions, where they have been counted.
    """

    loss: Tensor
    predictions: Tensor
    width: int
    counts: Counts | None = None

    @classmethod
    def of(cls, task: Task, outputs: Tensor, target: Tensor) -> Self:
        """The outputs of one participant, shape ``(B, C)`` or ``(B,)``, for targets of as many examples."""
        width = 1 if outputs.ndim == 1 else outputs.shape[-1]
        return cls(task.loss(outputs, target), task.predictions(outputs), width)
