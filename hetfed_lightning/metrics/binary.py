"""Metrics of binary predictions whose value is NaN on data sets that do not define them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics.classification import BinaryAUROC, BinaryStatScores
from torchmetrics.utilities.data import dim_zero_cat


class DefinedAUROC(BinaryAUROC):
    """Area under the ROC curve; NaN where only one class was seen, for which torchmetrics returns 0.

    A small hospital's validation set may well hold one class, and a made-up 0 would be averaged with real figures.
    """

    def compute(self) -> Tensor:  # type: ignore[override]  # torchmetrics' own AUROC departs from its base like this
        """Area under the ROC curve, a scalar in [0, 1] or NaN."""
        targets = dim_zero_cat(self.target)
        if bool((targets == targets[:1]).all()):
            return torch.full((), math.nan)
        area: Tensor = super().compute()
        return area


class BalancedAccuracy(BinaryStatScores):
    """Mean of the share of positives found and the share of negatives found; NaN where one class was not seen.

    Probabilities ``(B,)`` are cut at 0.5, targets are 0 or 1. With nine positives in ten, "always positive" reaches .5
    rather than .9. Equal to scikit-learn's ``balanced_accuracy_score``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def compute(self) -> Tensor:
        """Mean of sensitivity and specificity, a scalar in [0, 1] or NaN."""
        tp, fp, tn, fn = (count.to(torch.float32) for count in self._final_state())
        shares: Tensor = (tp / (tp + fn) + tn / (tn + fp)) / 2
        return shares
