"""Checks that tensors are finite and small enough for others to train on, and names of participants that fail."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import torch
from torch import Tensor

LARGEST = 1e12
"""Largest absolute value of a parameter. The mean of larger ones may be finite, but training from it is not: its
receivers would diverge and be blamed for it."""


LARGEST_LOGIT = 1e30
"""Largest absolute value of a logit on the public set; sums of larger ones overflow float32."""


LARGEST_PREDICTION = 1e15
"""Largest absolute value of a regression's prediction on the public set; losses take its square."""


@torch.no_grad()
def is_finite(tensors: Iterable[Tensor]) -> bool:
    """True if every element of every floating-point or complex tensor is finite (one synchronisation with the device).

    A sum with an infinity or a NaN in it is never finite, and costs a fifteenth of a check of every element. Elements
    are checked only if the sum is not finite, since sums of large numbers overflow.

    Args:
        tensors: Tensors of any shapes and dtypes on one device; integers and bools are ignored.
    """
    floating = _real(tensors)
    if not floating or bool(torch.isfinite(torch.stack([tensor.sum() for tensor in floating])).all()):
        return True
    return all(bool(torch.isfinite(tensor).all()) for tensor in floating)


@torch.no_grad()
def largest_number(tensors: Iterable[Tensor]) -> float:
    """Largest absolute value in any floating-point or complex tensor; NaN if there is a NaN (one synchronisation).

    Args:
        tensors: On one device; of any dtypes, of which integers and bools are passed over.
    """
    ends = [end for tensor in _real(tensors) for end in torch.aminmax(tensor)]
    return float(torch.stack(ends).abs().max()) if ends else 0.0


def _real(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Floating-point tensors that are not empty, complex ones as both of their parts.

    Floats of eight bits become wider: torch neither adds nor compares them.
    """
    held = [torch.view_as_real(one.resolve_conj()) if one.is_complex() else one for one in tensors]
    floating = [tensor for tensor in held if tensor.is_floating_point() and tensor.numel()]
    return [tensor.float() if tensor.element_size() == 1 else tensor for tensor in floating]


def why_unusable(state: Mapping[str, Tensor], parameters: Container[str]) -> str:
    """Reason for which a state cannot be averaged: non-finite, or a parameter above :data:`LARGEST`; empty if it can.

    Buffers may have any finite size, since they follow the data: the variances of unscaled features are squares.

    Args:
        state: Tensors by key, of any shapes.
        parameters: Keys that are parameters; all others are buffers.
    """
    if not is_finite(state.values()):
        return "its weights are not finite"
    for key, tensor in state.items():
        if key in parameters and (found := largest_number([tensor])) > LARGEST:
            return f"its weights are as large as {found:.3g} at {key}, beyond {LARGEST:g}"
    return ""


def why_not_heard(answers: Tensor, kind: str) -> str:
    """Reason for which a teacher's outputs cannot be distilled: non-finite or too large; empty if they can.

    Args:
        answers: Outputs on the public set, shape ``(P, C)``.
        kind: Kind of outputs, such as ``"multiclass"``.
    """
    if not is_finite([answers]):
        return "its predictions on the public set are not finite"
    found, most = largest_number([answers]), LARGEST_PREDICTION if kind == "regression" else LARGEST_LOGIT
    return "" if found <= most else f"its predictions on the public set are as large as {found:.3g}, beyond {most:g}"


def names_beyond(states: Mapping[str, Iterable[Tensor]], most: float) -> list[str]:
    """Names of participants with a tensor that is non-finite or larger than ``most``; one check if there are none.

    Args:
        states: Tensors by participant's name, of any shapes.
        most: Largest absolute value allowed.
    """
    held = {name: list(tensors) for name, tensors in states.items()}
    if largest_number({id(tensor): tensor for tensors in held.values() for tensor in tensors}.values()) <= most:
        return []
    return [name for name, tensors in held.items() if not largest_number(tensors) <= most]


def names_of_non_finite(states: Mapping[str, Iterable[Tensor]]) -> list[str]:
    """Names of participants with a non-finite tensor; one check for all in the usual case that there are none."""
    held = {name: list(tensors) for name, tensors in states.items()}
    if is_finite({id(tensor): tensor for tensors in held.values() for tensor in tensors}.values()):
        return []
    return [name for name, tensors in held.items() if not is_finite(tensors)]
