"""Effective number of classes that probabilities are about."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_classes(probabilities: Tensor) -> float:
    """Effective number of classes, in [1, C]: C if all are as frequent on average, 1 if there is but one.

    It is the exponential of the entropy of the mean of all rows (Hill's number of order 1).

    Args:
        probabilities: Rows that sum to one, shape ``(P, C)``, P at least 1.
    """
    mean = probabilities.double().mean(dim=0)
    return float(torch.special.entr(mean).sum().exp().clamp(1, probabilities.shape[1]))
