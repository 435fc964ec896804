"""Kinds of output, and the softened predictions that each becomes at a temperature."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

OutputKind: TypeAlias = Literal["multiclass", "binary", "multilabel", "regression"]
"""Kind of a network's outputs.

`multiclass` is C logits of which one class is right, `binary` one logit, `multilabel` C logits with each label on its
own, `regression` C values.

A task may have a kind of its own: it then overrides its predictions and its distillation loss, and an `Ensemble` with
that kind in its `kinds` combines its teachers.
"""

KINDS: tuple[OutputKind, ...] = get_args(OutputKind)
"""The four kinds that losses and ensembles of this package know."""


def says_of_kinds() -> str:
    """Description of the four kinds, for messages."""
    return (
        "'multiclass' (C logits, one class is right), 'binary' (one logit), 'multilabel' (C logits, each on its own, "
        "as the thresholds of an ordinal scale) or 'regression' (C values)"
    )


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not a positive finite number.

    Args:
        temperature: Divisor of logits; commonly 1 to 5, larger is softer.

    Raises:
        ValueError: If it is zero, negative, infinite or NaN.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(
            f"expected a finite temperature above 0, got {temperature}: "
            "use 1 to leave outputs as they are, 2 to 4 to soften them"
        )


def check_outputs(outputs: Tensor, kind: str) -> None:
    """Refuse outputs whose last dimension does not fit their kind.

    Args:
        outputs: Logits, probabilities or values, shape ``(..., C)``.
        kind: Kind of the outputs.

    Raises:
        ValueError: If the kind is unknown; if the outputs are a scalar; if binary ones have not exactly one column or
            multiclass ones fewer than two.
    """
    if kind not in KINDS:
        raise ValueError(f"expected a kind out of {list(KINDS)}, got {kind!r}")
    shape = tuple(outputs.shape)
    if len(shape) == 0:
        raise ValueError(f"expected {kind} outputs of shape (..., C), got a scalar: keep the last dimension")
    if kind == "binary" and shape[-1] != 1:
        raise ValueError(f"expected binary outputs of shape (..., 1), got {shape}: use kind 'multiclass' or one logit")
    if kind == "multiclass" and shape[-1] < 2:
        raise ValueError(
            f"expected multiclass outputs of shape (..., C) with C >= 2, got {shape}: "
            "the softmax of one logit is always 1; use kind 'binary'"
        )


def at_least_float32(outputs: Tensor) -> Tensor:
    """The outputs in float32, or in float64 if they are; half precision is too coarse.

    Args:
        outputs: A tensor of any shape and real dtype.
    """
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def soften(logits: Tensor, temperature: float, kind: str) -> Tensor:
    """Predictions at a temperature: probabilities, or the values themselves for regression.

    Args:
        logits: Shape ``(..., C)``, any floating dtype; binary ones ``(..., 1)``.
        temperature: Finite and above 0; 1 leaves the predictions as they are. Without effect on regression.
        kind: Kind of the outputs.

    Returns:
        The same shape, in float32 or float64: ``softmax(logits / temperature)`` over the last dimension (multiclass),
        ``sigmoid(logits / temperature)`` (binary, multilabel), the values unchanged (regression).

    Raises:
        ValueError: If the temperature or the shape does not fit.

    Reference:
        Hinton, Vinyals, Dean (2015). Distilling the knowledge in a neural network, equation 1.
    """
    check_temperature(temperature)
    check_outputs(logits, kind)
    outputs = at_least_float32(logits)
    if kind == "multiclass":
        return torch.softmax(outputs / temperature, dim=-1)
    if kind == "regression":
        return outputs
    return torch.sigmoid(outputs / temperature)


def renormalise(p: Tensor, kind: str) -> Tensor:
    """Predictions that sum to one over the classes again, after an operation that broke the sum.

    Args:
        p: Shape ``(..., C)``; not negative if multiclass.
        kind: Kind of the outputs; only multiclass ones have a sum to keep.

    Returns:
        Shape ``(..., C)``. Multiclass: ``p`` divided by its sum over the last dimension, and equal probabilities where
        the sum is zero. Others: ``p`` itself.

    Raises:
        ValueError: If the shape does not fit the kind.
    """
    check_outputs(p, kind)
    if kind != "multiclass":
        return p
    total = p.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, p / total, torch.full_like(p, 1 / p.shape[-1]))


def two_columns(outputs: Tensor) -> Tensor:
    """Outputs of shape ``(B, C)``; outputs of shape ``(B,)`` of a binary head become ``(B, 1)``."""
    return outputs.unsqueeze(1) if outputs.ndim == 1 else outputs
