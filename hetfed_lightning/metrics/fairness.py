"""Fairness of a federation to its participants: the worst, the spread and Jain's index beside the mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FairnessSummary:
    """Summary of one metric over all participants.

    Args:
        mean: Unweighted mean, in the metric's unit.
        worst: The worst participant's value.
        worst_name: The worst participant; of several the first.
        std: Standard deviation over the participants (divided by K, not K - 1: these are all there are).
        jain: Jain's index in [1 / K, 1]; NaN if a value is negative or not finite.
    """

    mean: float
    worst: float
    worst_name: str
    std: float
    jain: float


def jain_index(values: Iterable[float]) -> float:
    """Jain's index of fairness: ``(sum x)^2 / (K sum x^2)``.

    It is 1 when all values are equal and 1 / K when all but one are zero. It has no direction: equal losses have an
    index of 1 however large they are.

    Args:
        values: K numbers, at least one; finite and not negative; any unit, since only ratios matter.

    Returns:
        A number in [1 / K, 1]; 1.0 if all values are zero.

    Raises:
        ValueError: If there is no value, or one is negative or not finite.

    Reference:
        Jain, Chiu, Hawe (1984). A quantitative measure of fairness and discrimination for resource allocation in shared
        computer systems. DEC Research Report TR-301.
    """
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError("expected at least one value, got none: name a metric that some participant has logged")
    for index, number in enumerate(numbers):
        if not math.isfinite(number) or number < 0:
            raise ValueError(f"expected finite values of at least 0, got {number} at index {index}: use accuracies")
    largest = max(numbers)
    if largest == 0:
        return 1.0
    # Divided by the largest first: squares of 1e-200 are zero.
    scaled = [number / largest for number in numbers]
    squares = math.fsum(number * number for number in scaled)
    return min(1.0, math.fsum(scaled) ** 2 / (len(scaled) * squares))


def summarise(values: Mapping[str, float], *, higher_is_better: bool = True) -> FairnessSummary:
    """Summary of one metric over the participants.

    A value that is NaN raises no error: its participant is the worst, and the mean is NaN.

    Args:
        values: The metric of every participant by name, at least one.
        higher_is_better: True for an accuracy, False for a loss.

    Returns:
        Mean, worst value, name of the worst, standard deviation and Jain's index.

    Raises:
        ValueError: If there is no participant.
    """
    if not values:
        raise ValueError("expected the metric of at least one participant, got none: has anyone logged it?")
    numbers = {name: float(value) for name, value in values.items()}

    def badness(name: str) -> float:
        number = numbers[name]
        if math.isnan(number):
            return math.inf
        return -number if higher_is_better else number

    worst_name = max(numbers, key=badness)
    mean = _total(numbers.values()) / len(numbers)
    apart = [number - mean for number in numbers.values()]
    variance = _total(number * number for number in apart) / len(numbers)
    fair = all(math.isfinite(number) and number >= 0 for number in numbers.values())
    return FairnessSummary(
        mean=mean,
        worst=numbers[worst_name],
        worst_name=worst_name,
        std=math.sqrt(variance),
        jain=jain_index(numbers.values()) if fair else math.nan,
    )


def _total(numbers: Iterable[float]) -> float:
    """Exact sum, so that it is the same in any order; infinite or NaN where floats have none."""
    found = list(numbers)
    try:
        return math.fsum(found)
    except (OverflowError, ValueError):  # Beyond the largest float, or infinities of both signs.
        return sum(found)
