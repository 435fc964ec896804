"""Median of the participants' states: stands faulty ones below one half, ignores data sizes.

With few participants of different data it is a poorer estimate than the mean; use it where some may be
faulty.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hetfed_lightning.aggregation.sorted_blocks import middle, reduce_sorted
from hetfed_lightning.aggregation.state import State, check_states


def coordinate_median(states: Sequence[State], weights: Tensor) -> dict[str, Tensor]:
    """Median over participants of every parameter.

    An even number of participants gives the mean of the two middle values (`torch.median` takes the lower
    one, which would favour small values). NaN counts as the largest value, so fewer than half of them do no
    harm.

    Args:
        states: One state per participant, K in all, with equal keys, shapes and dtypes; left as they are.
        weights: Shape ``(K,)``; checked but unused, since counting examples would let one large participant
            win. A participant of weight 0 counts as any other: to leave it out, do not pass it.

    Returns:
        A state of the same keys, shapes, dtypes and device, sharing no memory with any input. Integer and
        bool tensors take the maximum over participants.

    Raises:
        ValueError: If two states disagree or the weights do not fit (see `check_states`).

    Reference:
        Yin, Chen, Ramchandran, Bartlett (2018). Byzantine-robust distributed learning: towards optimal
        statistical rates. ICML, Definition 1.
    """
    check_states(states, weights)
    return reduce_sorted(states, middle)
