"""Distances between states, in float64 and by direct difference, a block of coordinates at a time.

Never by ``|a|^2 + |b|^2 - 2 ab``: in float32 that loses a distance of 1 between vectors of length 10,000, so that in a
large network an outlier is not seen. A block takes some 8 MB however large the network, and the differences no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from hetfed_lightning.aggregation.state import State, accumulation_dtype

_VALUES_PER_BLOCK = 1 << 20


def blocks(states: Sequence[State]) -> Iterator[Tensor]:
    """Blocks of the states' floating-point coordinates, all of them once, in the order of the keys.

    Args:
        states: One state per participant, K in all, already checked by `check_states`.

    Yields:
        Shape ``(K, M)`` in float64 (float32 on ``mps``), a copy; M differs from block to block.
    """
    columns = max(1, _VALUES_PER_BLOCK // len(states))
    for key, tensor in states[0].items():
        if not tensor.is_floating_point():
            continue
        flat = [state[key].detach().reshape(-1) for state in states]
        for start in range(0, tensor.numel(), columns):
            yield torch.stack([values[start : start + columns] for values in flat]).to(accumulation_dtype(tensor))


@torch.no_grad()
def pairwise_squared_distances(states: Sequence[State]) -> Tensor:
    """Squared Euclidean distances between all pairs of states, over their floating-point tensors.

    Args:
        states: One state per participant, K in all, already checked by `check_states`.

    Returns:
        Shape ``(K, K)``, symmetric, zero on the diagonal, on the CPU; infinite where a difference is no finite number.
    """
    squared = torch.zeros(len(states), len(states), dtype=torch.float64)
    for block in blocks(states):
        distances = torch.cdist(block, block, compute_mode="donot_use_mm_for_euclid_dist")
        squared += distances.square().cpu()
    return squared.nan_to_num(nan=torch.inf, posinf=torch.inf).fill_diagonal_(0)


@torch.no_grad()
def distances_from(states: Sequence[State], centre: Callable[[Tensor], Tensor]) -> Tensor:
    """Euclidean distance of every state from a point, over the floating-point tensors.

    Args:
        states: One state per participant, K in all, already checked by `check_states`.
        centre: Takes ``(K, M)`` coordinates of the states and returns ``(M,)``, those of the point.

    Returns:
        Shape ``(K,)``, on the CPU; infinite where a difference is no finite number.
    """
    squared = torch.zeros(len(states), dtype=torch.float64)
    for block in blocks(states):
        squared += (block - centre(block)).square().sum(dim=1).cpu()
    return squared.nan_to_num(nan=torch.inf, posinf=torch.inf).sqrt()
