"""Task with real values as targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanAbsoluteError, Metric

from hetfed_lightning.distillation.outputs import at_least_float32
from hetfed_lightning.metrics import DefinedR2Score
from hetfed_lightning.tasks.targets import flat
from hetfed_lightning.tasks.task import Task


class RegressionTask(Task):
    """Real values: outputs ``(B, D)``, targets ``(B, D)``, or ``(B,)`` where D is 1, squared error.

    With a ``target_transform`` the loss is in the squared unit of the transformed targets; metrics and
    ``Participant.predict`` are in the unit of the data.
    """

    kind = "regression"
    headline = "r2"

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Mean squared error over examples and columns, a scalar.

        Args:
            outputs: Shape ``(B, D)``.
            target: Shape ``(B, D)``, or ``(B,)`` where D is 1.
        """
        outputs = at_least_float32(outputs)
        return F.mse_loss(outputs, target.reshape(outputs.shape).to(outputs.dtype))

    def example_losses(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of each example, the mean over its columns.

        Args:
            outputs: Shape ``(B, D)``.
            target: Shape ``(B, D)``, or ``(B,)`` where D is 1.

        Returns:
            Losses, shape ``(B,)``, and ones, shape ``(B,)``.
        """
        outputs = at_least_float32(outputs)
        losses = (outputs - target.reshape(outputs.shape).to(outputs.dtype)).square().reshape(len(outputs), -1).mean(1)
        return losses, torch.ones_like(losses)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Outputs in float32 at least, shape ``(B, D)``, or ``(B,)`` where D is 1."""
        return flat(super().predictions(outputs))

    def metric_target(self, target: Tensor) -> Tensor:
        """Targets in float32 at least, shape ``(B, D)``, or ``(B,)`` where D is 1."""
        return flat(super().metric_target(target))

    def default_metrics(self, width: int) -> dict[str, Metric]:
        """Coefficient of determination and mean absolute error, as ``"r2"`` and ``"mae"``."""
        del width
        return {"r2": DefinedR2Score(sync_on_compute=False), "mae": MeanAbsoluteError(sync_on_compute=False)}

    def target_problem(self, target: Tensor, width: int) -> str | None:
        """Description of targets in another number of columns than ``width``, or not finite; None without fault.

        Args:
            target: Shape ``(N, D)``, or ``(N,)`` where D is 1.
            width: Width D of the head's outputs.
        """
        columns = 1 if target.ndim == 1 else target.shape[1]
        if columns != width:
            return f"expected {width} value(s) per example, as many as the head's outputs, got {columns}"
        if target.is_floating_point() and not bool(torch.isfinite(target).all()):
            return f"expected finite targets, got {int((~torch.isfinite(target)).sum())} that are not"
        return None
