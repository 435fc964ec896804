"""Whether numbers are finite and of a size that others can go on with, and whose are not."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import torch
from torch import Tensor

LARGEST = 1e12
"""Largest absolute value of a parameter. The mean of larger ones is finite, and what is trained from it is not: whoever
receives it is ruined in turn, and would be named for it."""


LARGEST_LOGIT = 1e30
"""Largest absolute value of a logit on the public set: sums of larger ones are no numbers in float32."""


LARGEST_PREDICTION = 1e15
"""Largest absolute value that a regression predicts on the public set, of which losses take squares."""


@torch.no_grad()
def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every element of every floating-point or complex tensor is finite (one synchronisation with the device).

    A sum with an infinity or a NaN in it is never finite, and costs a fifteenth of looking at every element; that is
    left to sums that are not finite, since those of large numbers overflow.

    Args:
        tensors: On one device; of any dtypes, of which integers and bools are passed over.
    """
    floating = _real(tensors)
    if not floating or bool(torch.isfinite(torch.stack([tensor.sum() for tensor in floating])).all()):
        return True
    return all(bool(torch.isfinite(tensor).all()) for tensor in floating)


@torch.no_grad()
def largest_number(tensors: Iterable[Tensor]) -> float:
    """Largest absolute value in any floating-point or complex tensor; NaN if one holds a NaN (one synchronisation).

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
    """Why others cannot go on with a state: it is not finite, or a parameter is too large; empty where they can.

    Buffers are as large as the data make them: of features that are not scaled, variances are squares.

    Args:
        state: Tensors by key.
        parameters: Keys of those that are parameters rather than buffers.
    """
    if not is_finite(state.values()):
        return "its weights are not finite"
    for key, tensor in state.items():
        if key in parameters and (found := largest_number([tensor])) > LARGEST:
            return f"its weights are as large as {found:.3g} at {key}, beyond {LARGEST:g}"
    return ""


def why_not_heard(answers: Tensor, kind: str) -> str:
    """Why nobody can learn from answers to the public set: not finite, or too large; empty where one can.

    Args:
        answers: Outputs, shape ``(P, C)``.
        kind: Of outputs, such as ``"multiclass"``.
    """
    if not is_finite([answers]):
        return "its predictions on the public set are not finite"
    found, most = largest_number([answers]), LARGEST_PREDICTION if kind == "regression" else LARGEST_LOGIT
    return "" if found <= most else f"its predictions on the public set are as large as {found:.3g}, beyond {most:g}"


def names_beyond(states: Mapping[str, Iterable[Tensor]], most: float) -> list[str]:
    """Whose tensors are not finite, or larger than ``most``; one look at all where nobody's are."""
    held = {name: list(tensors) for name, tensors in states.items()}
    if largest_number({id(tensor): tensor for tensors in held.values() for tensor in tensors}.values()) <= most:
        return []
    return [name for name, tensors in held.items() if not largest_number(tensors) <= most]


def names_of_non_finite(states: Mapping[str, Iterable[Tensor]]) -> list[str]:
    """Whose tensors are not finite; one look at all where nobody's are, which is nearly always."""
    held = {name: list(tensors) for name, tensors in states.items()}
    if is_finite({id(tensor): tensor for tensors in held.values() for tensor in tensors}.values()):
        return []
    return [name for name, tensors in held.items() if not is_finite(tensors)]
