"""Targets as several tasks look at them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def flat(tensor: Tensor) -> Tensor:
    """Values of shape ``(B,)`` where there is one for each example."""
    return tensor.squeeze(1) if tensor.ndim == 2 and tensor.shape[1] == 1 else tensor


def zero_one_problem(target: Tensor) -> str | None:
    """What is wrong with targets that should be 0 or 1, or None."""
    wrong = (target != 0) & (target != 1)
    if bool(wrong.any()):
        return f"expected targets 0 or 1, got {target[wrong][0].item()}"
    return None


def balanced_weights(counts: Tensor) -> Tensor:
    """Weight of each class that gives all of them one say, ``N / (C * count)``, as scikit-learn's ``"balanced"``.

    Args:
        counts: Examples per class, shape ``(C,)``.

    Returns:
        Shape ``(C,)``, float32, weighted mean 1 over the examples; 0 for a class without any, C counting the others.
    """
    present = (counts > 0).sum().clamp(min=1)
    weights = counts.sum() / (present * counts.clamp(min=1).double())
    return torch.where(counts > 0, weights, 0.0).float()


def saved_weights(learned: Mapping[str, Any], key: str) -> Tensor:
    """Weights of classes as a checkpoint or an export has them.

    Args:
        learned: What a task learned, by name.
        key: The name of the weights.

    Returns:
        Shape ``(C,)``, float32.

    Raises:
        ValueError: If they are missing, or no list of finite numbers of at least 0.
    """
    found = learned.get(key)
    if not isinstance(found, list) or not found or not all(map(_is_weight, found)):
        raise ValueError(f"expected a list of finite weights of at least 0 under {key!r}, got {found!r:.80}")
    return torch.tensor(found, dtype=torch.float32)


def _is_weight(value: Any) -> bool:
    return type(value) in {float, int} and math.isfinite(value) and value >= 0
