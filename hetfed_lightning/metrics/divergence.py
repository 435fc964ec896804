"""Divergence of the participants' networks: large before averaging, zero right after."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from hetfed_lightning.aggregation.state import State, accumulation_dtype, check_states


def state_divergence(
    states: Sequence[State], keys: Iterable[str] | None = None, *, centre: State | None = None
) -> float:
    """Distance of the states from their mean, relative to the length of that mean.

    With each state's floating tensors laid end to end as the vector ``x_k`` and their unweighted mean ``m``, it is
    ``sqrt(mean_k |x_k - m|^2) / |m|`` in Euclidean norms: 0.1 means that a typical participant is off by a tenth of the
    network's length. It does not depend on the scale of the network, nor on the order of participants.

    Args:
        states: One state per participant, K in all, with equal keys, shapes and dtypes.
        keys: The keys to compare, all by default; integer and bool tensors among them are passed over.
        centre: State to measure from in place of the mean, such as an aggregate of the states: a third of the cost, in
            the precision of the states.

    Returns:
        A number of at least 0, exactly 0.0 if all states are equal; infinite if they differ around a mean of zero, NaN
        if one holds a NaN.

    Raises:
        ValueError: If there is no state, two disagree on a key, shape or dtype, or one of `keys` is in none.
    """
    everyone = [*states, *([] if centre is None else [centre])]
    check_states(everyone, torch.ones(len(everyone)))
    chosen = list(states[0]) if keys is None else list(dict.fromkeys(keys))
    unknown = [key for key in chosen if key not in states[0]]
    if unknown:
        raise ValueError(f"expected keys out of {list(states[0])}, got {unknown}: name what the participants share")
    parts = []
    with torch.no_grad():
        for key in chosen:
            if states[0][key].is_floating_point():
                tensors = [state[key] for state in states]
                parts.append(_squares(tensors) if centre is None else _squares_around(tensors, centre[key]))
    if not parts:
        return 0.0
    distance, length = torch.stack(parts).sum(dim=0).tolist()  # One synchronisation with the device.
    if distance == 0:
        return 0.0
    return math.inf if length == 0 else math.sqrt(distance / length)


def _squares(tensors: Sequence[Tensor]) -> Tensor:
    """Mean squared distance from the mean, and the mean's squared length, of one key, shape ``(2,)``.

    In one pass over the participants, around the first of them: the mean square around the mean is the one around any
    point less the squared distance between the two. Equal tensors have a distance of exactly zero.
    """
    origin = tensors[0].to(accumulation_dtype(tensors[0])).reshape(-1)
    drift, step, squares = torch.zeros_like(origin), torch.empty_like(origin), origin.new_zeros(())
    for tensor in tensors[1:]:
        torch.sub(tensor.reshape(-1), origin, out=step)
        drift.add_(step)
        squares.add_(step.dot(step))
    drift.div_(len(tensors))
    spread = (squares / len(tensors) - drift.dot(drift)).clamp(min=0)
    mean = origin + drift
    return torch.stack([spread, mean.dot(mean)])


def _squares_around(tensors: Sequence[Tensor], centre: Tensor) -> Tensor:
    """Mean squared distance from `centre`, and the squared length of `centre`, of one key, shape ``(2,)``."""
    wide = accumulation_dtype(centre)
    centre = centre.to(torch.promote_types(centre.dtype, torch.float32))  # A norm in bfloat16 has 8 bits.
    distances = torch.stack([torch.dist(tensor.to(centre.dtype), centre) for tensor in tensors])
    return torch.stack([distances.to(wide).square().mean(), centre.norm().to(wide).square()])
