"""Weighted mean of the participants' states, the rule of federated averaging: best when nobody is faulty.

One participant with a large weight or a wild value moves it without bound; where that can happen, see
`coordinate_median` and `TrimmedMean`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hetfed_lightning.aggregation.state import (
    State,
    accumulation_dtype,
    check_states,
    maximum_over_participants,
)


def weighted_mean(states: Sequence[State], weights: Tensor) -> dict[str, Tensor]:
    """Weighted mean over participants of every parameter.

    Summed in float64, so that equal states come back exactly; float64 itself, which has nothing wider, as
    ``x_0 + sum_k p_k (x_k - x_0)``, where ``p`` is the normalised weights and ``x_0`` the state of largest weight.

    Args:
        states: One state per participant, K in all, with equal keys, shapes and dtypes; left as they are.
        weights: Shape ``(K,)``, commonly numbers of samples; finite, not negative, not all zero. A
            participant of weight 0 has no influence, whatever its state holds (Inf and NaN included).

    Returns:
        A state of the same keys, shapes, dtypes and device, sharing no memory with any input. Integer and
        bool tensors take the maximum over participants of positive weight.

    Raises:
        ValueError: If two states disagree or the weights do not fit (see `check_states`).

    Reference:
        McMahan, Moore, Ramage, Hampson, Aguera y Arcas (2017). Communication-efficient learning of deep
        networks from decentralized data. AISTATS, Algorithm 1.
    """
    check_states(states, weights)
    shares = _shares(weights)
    heaviest = max(range(len(states)), key=shares.__getitem__)
    # 0 * inf is nan: a state of weight 0 is left out, not multiplied by zero.
    heard = [k for k, share in enumerate(shares) if share > 0]
    with torch.no_grad():
        return {
            key: _mean(states[heaviest][key], [states[k][key] for k in heard], [shares[k] for k in heard])
            if tensor.is_floating_point()
            else maximum_over_participants([states[k][key] for k in heard])
            for key, tensor in states[0].items()
        }


def _shares(weights: Tensor) -> list[float]:
    """Weights divided by their sum, after a division by their maximum, since the sum may overflow."""
    scaled = weights.detach().cpu().double()
    scaled = scaled / scaled.max()
    shares: list[float] = (scaled / scaled.sum()).tolist()
    return shares


def _mean(base: Tensor, tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    # One participant at a time: a stack of K copies in float64 falls out of the cache and is 5 times slower.
    dtype = accumulation_dtype(base)
    if torch.finfo(dtype).bits > torch.finfo(base.dtype).bits:
        # The sum is off by some 1e-16, which a narrower type cannot tell from the equal numbers it came of.
        total = torch.zeros_like(base, dtype=dtype)
        for tensor, share in zip(tensors, shares, strict=True):
            total.add_(tensor, alpha=share)
        return total.to(base.dtype)
    drift = torch.zeros_like(base)
    for tensor, share in zip(tensors, shares, strict=True):
        if tensor is not base:
            drift.add_(tensor - base, alpha=share)
    return drift.add_(base)
