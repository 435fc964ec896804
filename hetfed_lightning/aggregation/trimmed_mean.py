"""Mean of the participants' states without the extremes of every coordinate: between the mean and the median.

It stands as many faulty participants as it trims at one side; with `trim` 0 it is the plain mean, near one
half the median.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from hetfed_lightning.aggregation.rule import AggregationRule
from hetfed_lightning.aggregation.sorted_blocks import reduce_sorted
from hetfed_lightning.aggregation.state import State, check_states


class TrimmedMean(AggregationRule):
    """Mean over participants of every parameter, after the smallest and the largest values are dropped.

    Ours: ``ceil(trim * K)`` values dropped at each side, but at least one (odd K) or two (even K) kept. The paper's
    fraction times K is a whole number; `scipy.stats.trim_mean` takes the floor. Why: with the floor, 0.1 of fewer than
    ten participants drops none of them, silently, and the rule is no longer robust.

    The mean of what remains is unweighted, as in the paper: weights are reported by the participants, and a large one
    would pull the mean towards those values of its participant that survive.

    Args:
        trim: Fraction in [0, 0.5) of the participants to drop at each side; at least the fraction that may be faulty.

    Raises:
        ValueError: If the fraction is outside [0, 0.5).

    Reference:
        Yin, Chen, Ramchandran, Bartlett (2018). Byzantine-robust distributed learning: towards optimal statistical
        rates. ICML, Definition 2.
    """

    def __init__(self, trim: float = 0.1) -> None:
        if not 0 <= trim < 0.5:
            raise ValueError(
                f"expected trim in [0, 0.5), the fraction dropped at each side, got {trim}: "
                "for the most that can be dropped use coordinate_median"
            )
        self.trim = trim

    def dropped_per_side(self, participants: int) -> int:
        """Number of values dropped at each side, which is the number of faulty participants that the rule stands.

        Args:
            participants: Number of participants K, at least 1.
        """
        # 0.14 * 50 is 7.000000000000001 in floating point: without the tolerance its ceiling is 8.
        return min(math.ceil(self.trim * participants - 1e-9), (participants - 1) // 2)

    def __call__(self, states: Sequence[State], weights: Tensor) -> dict[str, Tensor]:
        """Trimmed mean over participants of every parameter; NaN counts as the largest value.

        Args:
            states: One state per participant, K in all, with equal keys, shapes and dtypes; left as they are.
            weights: Shape ``(K,)``; checked but unused (see the class).

        Returns:
            A state of the same keys, shapes, dtypes and device, sharing no memory with any input. Integer and
            bool tensors take the maximum over participants.

        Raises:
            ValueError: If two states disagree or the weights do not fit (see `check_states`).
        """
        check_states(states, weights)
        dropped = self.dropped_per_side(len(states))
        return reduce_sorted(states, lambda ascending: _mean(ascending[dropped : len(states) - dropped]))


def _mean(kept: Tensor) -> Tensor:
    # Around the first value, so that equal values are returned exactly.
    return kept[0] + (kept - kept[0]).mean(dim=0)
