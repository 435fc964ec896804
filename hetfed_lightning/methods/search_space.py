"""Ranges of a method's arguments that a benchmark may search, written down with the method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Range:
    """Values that a search draws from: a list of them, or an interval.

    Attributes:
        values: The values; empty for an interval.
        low: Least value of an interval.
        high: Greatest value.
        log: True to draw evenly in the logarithm.
        whole: True to draw integers.
        times: True if what is drawn multiplies the number that a configuration has.
    """

    values: tuple[Any, ...] = ()
    low: float = math.nan
    high: float = math.nan
    log: bool = False
    whole: bool = False
    times: bool = False


def choices(*values: Any) -> Range:
    """Range of a few values."""
    return Range(values)


def log_range(low: float, high: float) -> Range:
    """Range of numbers drawn evenly in the logarithm.

    Args:
        low: Least value, above 0.
        high: Greatest value.
    """
    return Range(low=low, high=high, log=True)


def search_space(**ranges: Range) -> Mapping[str, Range]:
    """Ranges by argument, as ``Method.search_space`` holds them."""
    return MappingProxyType(ranges)
