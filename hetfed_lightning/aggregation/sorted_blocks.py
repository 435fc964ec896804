"""Functions of each coordinate's sorted values, as medians and the trimmed mean need them.

`torch.sort` also returns 8 bytes of index per value, so sorting K whole states at once takes several times their
memory; a block of coordinates at a time takes some 30 MB however large the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hetfed_lightning.aggregation.state import State, accumulation_dtype, maximum_over_participants

_VALUES_PER_BLOCK = 1 << 20


def reduce_sorted(states: Sequence[State], reduce: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """State in which every coordinate is a function of its K sorted values.

    Args:
        states: One state per participant, K in all, already checked by `check_states`.
        reduce: Takes ``(K, M)`` values in float64, ascending over participants, and returns ``(M,)``. NaN sorts last,
            so a rule that ignores the largest values ignores NaN.

    Returns:
        A state of the same keys, shapes, dtypes and device, sharing no memory with any input. Integer and bool tensors
        take the maximum over participants.
    """
    with torch.no_grad():
        return {
            key: _reduce([state[key] for state in states], reduce)
            if tensor.is_floating_point()
            else maximum_over_participants([state[key] for state in states])
            for key, tensor in states[0].items()
        }


def middle(ascending: Tensor) -> Tensor:
    """Median of sorted values; of an even number the mean of the two in the middle.

    Args:
        ascending: Shape ``(K, M)``, ascending along the first dimension.

    Returns:
        Shape ``(M,)``.
    """
    count = ascending.shape[0]
    return (ascending[(count - 1) // 2] + ascending[count // 2]) / 2


def _reduce(tensors: Sequence[Tensor], reduce: Callable[[Tensor], Tensor]) -> Tensor:
    first, columns = tensors[0], max(1, _VALUES_PER_BLOCK // len(tensors))
    flat = [tensor.detach().reshape(-1) for tensor in tensors]
    result = torch.empty(first.shape, dtype=first.dtype, device=first.device)
    for start in range(0, first.numel(), columns):
        block = torch.stack([values[start : start + columns] for values in flat])
        reduced = reduce(block.sort(dim=0).values.to(accumulation_dtype(first)))
        result.view(-1)[start : start + columns] = reduced.to(first.dtype)
    return result
