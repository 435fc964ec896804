"""What participants claim to have: refused where it is no count, bounded where it would outweigh all others.

A weight by number of examples is a participant's own word. One of a million millions is the average; so nobody's share
exceeds a bound, whatever it says. Rules that ignore weights need none of this.
"""

from __future__ import annotations

import math
from numbers import Integral

from torch import Tensor

from hetfed_lightning.aggregation.state import accumulation_dtype

MAX_SHARE = 0.5
"""Nobody outweighs all the others together."""


def sample_count(claimed: object, name: str) -> int:
    """Return a claimed number of examples, if it is one.

    Args:
        claimed: What a participant says it has.
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
    """Refuse a bound that is none.

    Raises:
        ValueError: If it is not a fraction in (0, 1].
    """
    if not (math.isfinite(max_share) and 0 < max_share <= 1):
        raise ValueError(f"max_share: expected a fraction in (0, 1], got {max_share}.")


def bounded_weights(weights: Tensor, max_share: float = MAX_SHARE) -> Tensor:
    """Return weights of which none is more than a share of their sum.

    Larger ones are lowered to one common value; the others stay. Where the bound is below one over the number of those
    above 0, these become equal. Of two neither can be told to be the liar: their weights stay as they are.

    Args:
        weights: Shape ``(K,)``, finite, not negative.
        max_share: Fraction in (0, 1]; 1 bounds nothing.

    Returns:
        Shape ``(K,)``, in float64 (float32 on ``mps``, which has no float64).

    Raises:
        ValueError: If the bound is none.
    """
    check_max_share(max_share)
    bounded = weights.to(accumulation_dtype(weights))
    descending = bounded[bounded > 0].sort(descending=True).values.tolist()
    if len(descending) < 3:
        return bounded
    for lowered, largest in enumerate(descending):
        # With `lowered` of them at the value c: c = max_share * (lowered * c + what the rest sum up to).
        left = 1 - max_share * lowered
        if left <= 0:
            break
        bound = max_share * math.fsum(descending[lowered:]) / left
        if largest <= bound:
            return bounded.clamp(max=bound)
    return bounded.clamp(max=descending[-1])
