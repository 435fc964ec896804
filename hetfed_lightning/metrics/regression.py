"""Figures of regressions that say NaN where a data set does not define them, and hold in any unit."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import R2Score

NOISE = {2: 1e-3, 4: 1e-5, 8: 1e-11}
"""Share of a sum of squares, by bytes of the numbers summed, below which a sum of squares around the mean is noise."""


class DefinedR2Score(R2Score):
    """Coefficient of determination; NaN for fewer than two examples, or targets that are all equal.

    torchmetrics refuses the first while a round is being closed, and puts 0 for the second. It also takes every sum
    of squares below 1e-4 for zero, so that of targets in small units it finds a perfect prediction, or none. Sums are
    in float64 where the device has it: of targets far from zero there is nothing left in float32.
    """

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Note predictions and targets, both of shape ``(B,)`` or ``(B, D)``."""
        if target.device.type != "mps":
            preds, target = preds.double(), target.double()
        super().update(preds, target)

    def compute(self) -> Tensor:
        """The share of the targets' variance that is explained, mean over the outputs that vary, or NaN."""
        return determination(self)


def determination(metric: R2Score) -> Tensor:
    """``1 - residual / total sum of squares``, over the outputs whose targets vary; NaN where none does.

    Args:
        metric: With ``multioutput`` of one value; it has been updated.
    """
    around = sum_of_squares(metric.sum_squared_error, metric.sum_error, metric.total)
    scores = 1 - metric.residual / around
    return _combined(scores, around, metric.multioutput, int(metric.total), metric.adjusted)


def sum_of_squares(squares: Tensor, total: Tensor, count: Tensor) -> Tensor:
    """Sum of squares around the mean, exactly 0 where rounding leaves nothing else of it.

    Args:
        squares: Sum of squares, of any shape.
        total: Sum, of the same shape.
        count: How many were summed.
    """
    around = squares - total * (total / count.clamp(min=1))
    return torch.where(around > NOISE[squares.element_size()] * squares, around, torch.zeros_like(around))


def _combined(scores: Tensor, around: Tensor, multioutput: str, count: int, adjusted: int) -> Tensor:
    shares = around if multioutput == "variance_weighted" else (around > 0).to(around.dtype)
    heard = around > 0
    if count < 2 or not bool(heard.any()):
        return torch.full((), torch.nan, device=around.device)
    if multioutput == "raw_values":
        found = torch.where(heard, scores, torch.nan)
    else:
        found = (scores[heard] * shares[heard]).sum() / shares[heard].sum()
    # Where there are too few examples for so many regressors, plain, as in torchmetrics.
    return 1 - (1 - found) * (count - 1) / (count - adjusted - 1) if 0 < adjusted < count - 1 else found
