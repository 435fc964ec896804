"""Functions of targets that several tasks use: their shape, their faults and the weights of their classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def flat(tensor: Tensor) -> Tensor:
    """The same values, of shape ``(B,)`` in place of ``(B, 1)``; tensors of any other shape unchanged."""
    return tensor.squeeze(1) if tensor.ndim == 2 and tensor.shape[1] == 1 else tensor


def zero_one_problem(target: Tensor) -> str | None:
    """Description of targets, of any shape, that are not all 0 or 1; None if they are."""
    wrong = (target != 0) & (target != 1)
    if bool(wrong.any()):
        return f"expected targets 0 or 1, got {target[wrong][0].item()}"
    return None


def balanced_weights(counts: Tensor) -> Tensor:
    """Class weights ``N / (C * count)``, by which all classes have the same total weight, as scikit-learn's "balanced".

    Args:
        counts: Examples per class, shape ``(C,)``.

    Returns:
        Shape ``(C,)``, float32, weighted mean 1 over the examples. A class without examples has weight 0 and is not
        counted in C.
    """
    present = (counts > 0).sum().clamp(min=1)
    weights = counts.sum() / (present * counts.clamp(min=1).double())
    return torch.where(counts > 0, weights, 0.0).float()


def saved_weights(learned: Mapping[str, Any], key: str) -> Tensor:
    """Class weights out of a checkpoint or an export, checked.

    Args:
        learned: Entries as ``Task.learned`` returned them.
        key: Name of the entry that holds the weights.

    Returns:
        Shape ``(C,)``, float32.

    Raises:
        ValueError: If the entry is missing, or no list of finite numbers of at least 0.
    """
    found = learned.get(key)
    if not isinstance(found, list) or not found or not all(map(_is_weight, found)):
        raise ValueError(f"expected a list of finite weights of at least 0 under {key!r}, got {found!r:.80}")
    return torch.tensor(found, dtype=torch.float32)


def _is_weight(value: Any) -> bool:
    return type(value) in {float, int} and math.isfinite(value) and value >= 0
