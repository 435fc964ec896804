"""Clipping of participants' updates to a largest norm, before any rule aggregates their states.

A participant that scales its update by 100 moves a mean by 100 times as much; once updates are clipped it weighs as
much as any other. Clipping bounds the length of an update and not its direction: against participants that agree on a
direction a robust rule is needed beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hetfed_lightning.aggregation.state import State, accumulation_dtype


def clip_updates(
    states: Sequence[State], previous: State, max_norm: float, names: Sequence[str] | None = None
) -> list[State]:
    """The states, with their updates scaled down to a norm of at most ``max_norm``.

    An update is the difference of a state from ``previous``, over all floating-point tensors together; integer and bool
    tensors pass unchanged. Rounding is towards ``previous``, so that the bound holds in exact arithmetic also in
    float32 and half precision.

    Args:
        states: One state per participant, K in all, with the keys, shapes and dtypes of ``previous``; left as they are.
        previous: The state last shared, on the same device.
        max_norm: Largest L2 norm of an update, above 0.
        names: K names for the messages; without them participants are called by their index.

    Returns:
        K states in the same order. An update within the bound comes back as the very state that was given.

    Raises:
        ValueError: If ``max_norm`` is not a positive finite number, or an update is not finite.

    Reference:
        Sun, Kairouz, Suresh, McMahan (2019). Can you really backdoor federated learning?, the defence "norm
        thresholding of updates"; McMahan, Ramage, Talwar, Zhang (2018). Learning differentially private recurrent
        language models. ICLR, "flat clipping".
    """
    check_max_norm(max_norm)
    clipped: list[State] = []
    for k, state in enumerate(states):
        norm = update_norm(state, previous)
        if not math.isfinite(norm):
            raise ValueError(
                f"participant {k if names is None else repr(names[k])}: expected a finite update to clip, got one of "
                f"norm {norm}: leave it out of the round"
            )
        clipped.append(state if norm <= max_norm else _scaled(state, previous, max_norm / norm))
    return clipped


def check_max_norm(max_norm: float, name: str = "max_norm") -> None:
    """Refuse a bound that is no positive finite number.

    Args:
        max_norm: Largest L2 norm of an update.
        name: Name of the setting, for the message.

    Raises:
        ValueError: If it is zero, negative, infinite, NaN or no number.
    """
    if isinstance(max_norm, bool) or not isinstance(max_norm, int | float) or not 0 < max_norm < math.inf:
        raise ValueError(f"{name}: expected a finite norm above 0, got {max_norm!r}: leave it out to bound nothing")


@torch.no_grad()
def update_norm(state: State, previous: State) -> float:
    """L2 norm of a state's update, over all floating-point tensors together.

    Args:
        state: A participant's state.
        previous: The state last shared, of the same keys, shapes and dtypes, on the same device.

    Returns:
        The norm, summed in float64; infinite or NaN where the update is not finite.
    """
    squares = [
        _difference(tensor, previous[key]).square().sum()
        for key, tensor in state.items()
        if tensor.is_floating_point() and tensor.numel()
    ]
    return math.sqrt(float(torch.stack(squares).sum())) if squares else 0.0


def _difference(tensor: Tensor, before: Tensor) -> Tensor:
    dtype = accumulation_dtype(tensor)
    return tensor.to(dtype) - before.to(dtype)


@torch.no_grad()
def _scaled(state: State, previous: State, factor: float) -> dict[str, Tensor]:
    # The factor itself was rounded: a slightly smaller one keeps the norm of float64 updates below the bound as well.
    factor *= 1 - 1e-12
    return {
        key: _towards(previous[key], _difference(tensor, previous[key]).mul_(factor))
        if tensor.is_floating_point()
        else tensor
        for key, tensor in state.items()
    }


def _towards(before: Tensor, update: Tensor) -> Tensor:
    """The number next to ``before + update`` that is no further from ``before`` than that."""
    result = (before.to(update.dtype) + update).to(before.dtype)
    too_far = _difference(result, before).abs() > update.abs()
    return torch.where(too_far, torch.nextafter(result, before), result)
