"""Confidence intervals of means over a few repeats."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """Mean with the ends of its confidence interval.

    Attributes:
        mean: Mean of the values; NaN without values.
        low: Lower end; NaN with fewer than two values, which have no spread.
        high: Upper end; NaN like the lower.
        count: Number of values.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def known(self) -> bool:
        """True if it has ends, which takes two values."""
        return self.count > 1

    @property
    def excludes_zero(self) -> bool:
        """True if zero lies outside of it; False where the ends are unknown."""
        return self.low > 0 or self.high < 0


def mean_interval(values: Iterable[float], confidence: float = 0.95, *, test_to_train: float = 0.0) -> Interval:
    """Student's t interval of the mean: ``mean +- t * s * sqrt(1 / n + r)``, t with n - 1 degrees of freedom.

    With r = 0 it takes the values for independent and roughly normal, as differences between two trainings on the same
    seed are. Repeats that divide one small data set anew share examples: their interval holds for these examples under
    other divisions, and for new ones is too narrow. Nadeau and Bengio's correction widens it by ``r = test_to_train``.

    Args:
        values: Numbers of any unit; NaN is left out.
        confidence: Probability that the interval holds the true mean, in (0, 1).
        test_to_train: Test examples over training examples of each division, at least 0.

    Returns:
        The interval; of width zero where all values are equal.

    Raises:
        ValueError: If the confidence is not between 0 and 1, or the ratio is negative.

    Reference:
        Nadeau and Bengio (2003), Inference for the generalization error, section 3, the corrected resampled t-test.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a share between 0 and 1, such as 0.95, got {confidence}.")
    if not test_to_train >= 0:
        raise ValueError(f"test_to_train: expected a ratio of at least 0, got {test_to_train}.")
    found = [float(value) for value in values if not math.isnan(value)]
    if len(found) < 2:
        return Interval(found[0] if found else math.nan, math.nan, math.nan, len(found))
    # Imported here, since it takes a fifth of a second at every start; `scipy.stats` would take four times as long.
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(found) - 1, (1 + confidence) / 2))
    if not all(map(math.isfinite, found)):
        return Interval(sum(found) / len(found), -math.inf, math.inf, len(found))
    mean = statistics.fmean(found)
    half = quantile * statistics.stdev(found) * math.sqrt(1 / len(found) + test_to_train)
    return Interval(mean, mean - half, mean + half, len(found))
