"""Task with several labels, of which each example has any number."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MultilabelAccuracy, MultilabelF1Score

from hetfed_lightning.distillation.outputs import at_least_float32
from hetfed_lightning.tasks.targets import zero_one_problem
from hetfed_lightning.tasks.task import Task


class MultilabelTask(Task):
    """Any of C labels: logits ``(B, C)``, targets of the same shape in {0, 1}, binary cross-entropy."""

    kind = "multilabel"
    headline = "accuracy"

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy, a scalar: the mean over examples and labels.

        Args:
            outputs: Logits, shape ``(B, C)``.
            target: Shape ``(B, C)``, 0 or 1.
        """
        outputs = at_least_float32(outputs)
        return F.binary_cross_entropy_with_logits(outputs, target.to(outputs.dtype))

    def example_losses(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy of each example, the mean over its labels.

        Args:
            outputs: Logits, shape ``(B, C)``.
            target: Shape ``(B, C)``, 0 or 1.

        Returns:
            Losses, shape ``(B,)``, and ones, shape ``(B,)``.
        """
        outputs = at_least_float32(outputs)
        losses = F.binary_cross_entropy_with_logits(outputs, target.to(outputs.dtype), reduction="none").mean(1)
        return losses, torch.ones_like(losses)

    def default_metrics(self, width: int) -> dict[str, Metric]:
        """Accuracy and F1 over all ``width`` labels together, as ``"accuracy"`` and ``"f1"``."""
        return {
            "accuracy": MultilabelAccuracy(width, average="micro", sync_on_compute=False),
            "f1": MultilabelF1Score(width, average="micro", sync_on_compute=False),
        }

    def target_problem(self, target: Tensor, width: int) -> str | None:
        """Description of targets other than 0 and 1 in ``width`` columns; None without fault.

        Args:
            target: Shape ``(N, C)``.
            width: Number of labels C.
        """
        if target.ndim != 2 or target.shape[1] != width:
            return f"expected targets of shape (n, {width}), got {tuple(target.shape)}"
        return zero_one_problem(target)

    def class_counts(self, target: Tensor, width: int) -> Tensor | None:
        """Positive examples of each label, shape ``(C,)``, int64, on the CPU.

        Args:
            target: Shape ``(N, C)``, 0 or 1.
            width: Unused; the targets have the number of labels.
        """
        del width
        return target.cpu().long().sum(dim=0)
