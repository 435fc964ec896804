"""Geometric median of the participants' states: the point with the smallest sum of distances to them (RFA).

It stands faulty participants below one half, looks at whole states where the coordinate-wise median looks at single
numbers, and without faults stays close to the mean. An outlier pulls with the same force however far away it is. It
does not stand many participants that pull in one direction from within the spread of the honest ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hetfed_lightning.aggregation.distances import distances_from
from hetfed_lightning.aggregation.rule import AggregationRule
from hetfed_lightning.aggregation.sorted_blocks import middle
from hetfed_lightning.aggregation.state import State, check_states, maximum_over_participants
from hetfed_lightning.aggregation.weighted_mean import weighted_mean


class GeometricMedian(AggregationRule):
    """Smoothed Weiszfeld iteration: weights ``1 / max(smoothing, distance)``, mean, and again.

    Ours: begins at the coordinate-wise median and goes on until the weights stand still; the paper begins at the mean
    and stops after a few rounds, since there each needs the participants. And ours is unweighted; the paper's weights
    are numbers of samples. Why: these numbers are reported by the participants, and one that reports more than half of
    all samples would be the median.

    Args:
        smoothing: Distance below which a state pulls no harder, above 0, in the unit of the parameters.
        tolerance: Largest change of a participant's share at which the iteration ends, in (0, 1).
        iterations: Most iterations, at least 1; the result of the last is then taken, which is closer than any before.

    Raises:
        ValueError: If a setting is out of its range.

    Reference:
        Pillutla, Kakade, Harchaoui (2022). Robust aggregation for federated learning. IEEE Transactions on Signal
        Processing 70, Algorithm 2; Weiszfeld (1937).
    """

    def __init__(self, smoothing: float = 1e-6, tolerance: float = 1e-6, iterations: int = 100) -> None:
        if not (math.isfinite(smoothing) and smoothing > 0):
            raise ValueError(f"expected a finite smoothing above 0, got {smoothing}: 1e-6 suits most networks")
        if not 0 < tolerance < 1:
            raise ValueError(f"expected a tolerance in (0, 1), got {tolerance}: 1e-6 is as close as float32 shows")
        if iterations < 1:
            raise ValueError(f"expected at least 1 iteration, got {iterations}")
        self.smoothing = smoothing
        self.tolerance = tolerance
        self.iterations = iterations

    def shares(self, states: Sequence[State]) -> Tensor:
        """Weight of each participant in the median, shape ``(K,)``, summing to one.

        Args:
            states: One state per participant, K in all, with equal keys, shapes and dtypes. A state with NaN or
                infinities has weight 0.

        Raises:
            ValueError: If two states disagree (see `check_states`), or none is finite.
        """
        check_states(states, torch.ones(len(states)))
        shares = self._pull(distances_from(states, _middle_of))
        for _ in range(self.iterations):
            before, shares = shares, self._pull(distances_from(states, _mean_with(shares)))
            if float((shares - before).abs().max()) <= self.tolerance:
                break
        return shares

    def _pull(self, distances: Tensor) -> Tensor:
        if not bool(torch.isfinite(distances).any()):
            raise ValueError(
                f"expected a state that is finite, got {len(distances)} that are not: leave such participants out"
            )
        pull = 1 / distances.clamp(min=self.smoothing)
        return pull / pull.sum()

    def __call__(self, states: Sequence[State], weights: Tensor) -> dict[str, Tensor]:
        """Geometric median over participants of all floating-point tensors together.

        Args:
            states: One state per participant, K in all, with equal keys, shapes and dtypes; left as they are.
            weights: Shape ``(K,)``; checked but unused (see the class).

        Returns:
            A state of the same keys, shapes, dtypes and device, sharing no memory with any input. Integer and
            bool tensors take the maximum over participants.

        Raises:
            ValueError: If two states disagree or the weights do not fit (see `check_states`), or none is finite.
        """
        check_states(states, weights)
        median = weighted_mean(states, self.shares(states))
        counters = {
            key: maximum_over_participants([state[key] for state in states])
            for key, tensor in states[0].items()
            if not tensor.is_floating_point()
        }
        return median | counters


def _middle_of(block: Tensor) -> Tensor:
    return middle(block.sort(dim=0).values)


def _mean_with(shares: Tensor) -> Callable[[Tensor], Tensor]:
    # 0 * inf is nan: a state of weight 0 is left out, not multiplied by zero.
    heard = shares > 0

    def mean(block: Tensor) -> Tensor:
        return shares[heard].to(block) @ block[heard.to(block.device)]

    return mean
