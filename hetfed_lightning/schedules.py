"""Settings as functions of the round, such as a falling temperature or a growing weight."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod


class RoundSchedule(ABC):
    """Base class of settings that are a function of the round."""

    @abstractmethod
    def __call__(self, round_index: int) -> float:
        """Value in round ``round_index``, from 0."""


class LinearSchedule(RoundSchedule):
    """Linear change from ``start`` in round 0 to ``end`` in round ``rounds``, constant from then on.

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
        """Value in round ``round_index``, from 0."""
        return self.start + (self.end - self.start) * self.progress(round_index)

    def progress(self, round_index: int) -> float:
        """Fraction of the change in round ``round_index``, in [0, 1]."""
        return min(1.0, round_index / self.rounds)


class CosineSchedule(LinearSchedule):
    """Change from ``start`` to ``end`` along half a cosine wave, slow at both ends; see :class:`LinearSchedule`."""

    def progress(self, round_index: int) -> float:
        """Fraction of the change in round ``round_index``, in [0, 1]."""
        return (1 - math.cos(math.pi * super().progress(round_index))) / 2


def value_in(setting: float | RoundSchedule, round_index: int) -> float:
    """Value of a setting in a round; a plain number is the value in every round.

    Args:
        setting: Number or schedule.
        round_index: Index of the round, from 0.
    """
    return setting(round_index) if isinstance(setting, RoundSchedule) else setting
