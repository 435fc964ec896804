"""Names and numbers as logs and reports write them."""

from __future__ import annotations

from collections.abc import Sequence

FEW = 20
"""Largest number of participants that are listed by name, one line each."""


def listed(names: Sequence[str]) -> str:
    """Names joined by commas; of more than :data:`FEW` the first ones and the total number."""
    if len(names) <= FEW:
        return ", ".join(names)
    return f"{', '.join(names[:3])}, ... ({len(names):,} participants)"


def readable_bytes(count: float) -> str:
    """Number of bytes as text, in the largest unit that fits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
