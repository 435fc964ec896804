"""Settings that change over the rounds: a temperature that cools, a weight that grows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod


class RoundSchedule(ABC):
    """A number as a function of the round."""

    @abstractmethod
    def __call__(self, round_index: int) -> float:
        """The value in a round, counted from 0."""


class LinearSchedule(RoundSchedule):
    """From ``start`` in round 0 to ``end`` in round ``rounds``, and ``end`` from then on.

    Args:
        start: Value in round 0.
        end: Value from round ``rounds`` on.
        rounds: Rounds that the change takes, at least 1.

    Raises:
        ValueError: If ``rounds`` is below 1 or a value is not finite.
    """

    def __init__(self, start: float, end: float, rounds: int) -> None:
        if rounds < 1 or not math.isfinite(start) or not math.isfinite(end):
            raise ValueError(
                f"{type(self).__name__}: expected finite values and at least one round, got {start}, {end}, {rounds}."
            )
        self.start = start
        self.end = end
        self.rounds = rounds

    def __call__(self, round_index: int) -> float:
        """The value in a round, counted from 0."""
        return self.start + (self.end - self.start) * self.progress(round_index)

    def progress(self, round_index: int) -> float:
        """Share of the change that is done, in [0, 1]."""
        return min(1.0, round_index / self.rounds)


class CosineSchedule(LinearSchedule):
    """As :class:`LinearSchedule`, slow at both ends: half a cosine wave."""

    def progress(self, round_index: int) -> float:
        """Share of the change that is done, in [0, 1]."""
        return (1 - math.cos(math.pi * super().progress(round_index))) / 2


def value_in(setting: float | RoundSchedule, round_index: int) -> float:
    """A setting's value in a round, whether it is scheduled or not."""
    return setting(round_index) if isinstance(setting, RoundSchedule) else setting
