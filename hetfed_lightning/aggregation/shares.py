"""Bounds on the numbers of examples that participants report, which are the weights of a mean.

A number that is no count is refused. A weight by number of examples is a participant's own word, and one of a million
millions would be the average; so no participant's share exceeds a bound. Rules that ignore weights need none of this.
"""

from __future__ import annotations

import math
from numbers import Integral

import torch
from torch import Tensor

from hetfed_lightning.aggregation.state import accumulation_dtype

MAX_SHARE = 0.5
"""Largest share of one participant by default: no more than all others together."""


def sample_count(claimed: object, name: str) -> int:
    """A reported number of examples as an integer of at least 0.

    Args:
        claimed: The value that a participant reports, of any type.
        name: The participant, for the message.

    Raises:
        ValueError: If it is not a whole number of at least 0; a bool is none.
    """
    whole = isinstance(claimed, Integral) or (isinstance(claimed, float) and claimed.is_integer())
    if isinstance(claimed, bool) or not whole or int(claimed) < 0:  # type: ignore[call-overload]
        raise ValueError(
            f"participant {name!r}: expected a number of examples, whole and at least 0, got {claimed!r}: "
            "correct what it reports or leave it out of the round"
        )
    return int(claimed)  # type: ignore[call-overload,no-any-return]


def check_max_share(max_share: float) -> None:
    """Refuse a bound that is no fraction in (0, 1].

    Args:
        max_share: The bound.

    Raises:
        ValueError: If it is not a fraction in (0, 1].
    """
    if not (math.isfinite(max_share) and 0 < max_share <= 1):
        raise ValueError(f"max_share: expected a fraction in (0, 1], got {max_share}.")


def bounded_weights(weights: Tensor, max_share: float = MAX_SHARE) -> Tensor:
    """Weights of which none is more than a share of their sum.

    Larger ones are lowered to one common value; the others stay. Where the bound is below one over the number of
    positive weights, these become equal. Of two participants neither can be told to be the liar: their weights stay as
    they are.

    Args:
        weights: Shape ``(K,)``, finite, not negative.
        max_share: Fraction in (0, 1]; 1 bounds nothing.

    Returns:
        Shape ``(K,)``, in float64 (float32 on ``mps``, which has no float64).

    Raises:
        ValueError: If ``max_share`` is outside (0, 1].
    """
    check_max_share(max_share)
    bounded = weights.to(accumulation_dtype(weights))
    descending = bounded[bounded > 0].sort(descending=True).values.tolist()
    if len(descending) < 3:
        return bounded
    for lowered, largest in enumerate(descending):
        # With `lowered` of them at the value c: c = max_share * (lowered * c + sum of the rest).
        left = 1 - max_share * lowered
        if left <= 0:
            break
        bound = max_share * math.fsum(descending[lowered:]) / left
        if largest <= bound:
            return bounded.clamp(max=bound)
    return bounded.clamp(max=descending[-1])


def bounded_counts(counts: Tensor, max_share: float = MAX_SHARE) -> Tensor:
    """Examples by class of participants, of whom none has more than a share of all examples.

    The counts of one that claims more are scaled down alike, so that its classes keep their shares.

    Args:
        counts: Shape ``(K, C)``, floating, finite, not negative.
        max_share: Fraction in (0, 1]; 1 bounds nothing.

    Returns:
        Shape ``(K, C)``.

    Raises:
        ValueError: If ``max_share`` is outside (0, 1].
    """
    claimed = counts.sum(dim=1)
    factors = bounded_weights(claimed, max_share) / claimed.clamp(min=torch.finfo(counts.dtype).tiny)
    return counts * torch.where(claimed > 0, factors, torch.ones_like(factors))[:, None]
