"""Release of freed memory to the system after large deallocations, such as when participants become a fleet."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def hand_back() -> None:
    """Release freed memory to the system, if the C library keeps it (glibc does, between other blocks)."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # Another library, or Windows.
        return None
    return trim
