"""Metrics of regressions whose value is NaN on data sets that do not define them, exact in any unit."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import R2Score

NOISE = {2: 1e-3, 4: 1e-5, 8: 1e-11}
"""Share of a sum of squares below which the sum around the mean is rounding noise, by bytes of the numbers summed."""


class DefinedR2Score(R2Score):
    """Coefficient of determination; NaN for fewer than two examples, or targets that are all equal.

    torchmetrics raises an error for the first as a round is closed, and returns 0 for the second. It also takes every
    sum of squares below 1e-4 for zero, so that targets in small units seem predicted perfectly, or not at all. Sums are
    in float64 where the device has it, since float32 keeps no digit of the variance of targets far from zero.
    """

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch to the sums.

        Args:
            preds: Predictions, shape ``(B,)`` or ``(B, D)``.
            target: Targets, of the same shape.
        """
        if target.device.type != "mps":
            preds, target = preds.double(), target.double()
        super().update(preds, target)

    def compute(self) -> Tensor:
        """Share of the targets' variance that is explained, a scalar: the mean over the outputs that vary, or NaN."""
        return determination(self)


def determination(metric: R2Score) -> Tensor:
    """Coefficient ``1 - residual / total sum of squares``, over the outputs whose targets vary; NaN where none does.

    Args:
        metric: With ``multioutput`` of one value; it has been updated.

    Returns:
        A scalar; shape ``(D,)`` with ``multioutput="raw_values"``.
    """
    around = sum_of_squares(metric.sum_squared_error, metric.sum_error, metric.total)
    scores = 1 - metric.residual / around
    return _combined(scores, around, metric.multioutput, int(metric.total), metric.adjusted)


def sum_of_squares(squares: Tensor, total: Tensor, count: Tensor) -> Tensor:
    """Sum of squares around the mean, exactly 0 where it is no more than rounding noise.

    Args:
        squares: Sum of squares, of any shape.
        total: Sum, of the same shape.
        count: Number of summands.

    Returns:
        The same shape.
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
    # With too few examples for so many regressors the score is not adjusted, as in torchmetrics.
    return 1 - (1 - found) * (count - 1) / (count - adjusted - 1) if 0 < adjusted < count - 1 else found
