"""How lines of log name many participants, and errors."""

from __future__ import annotations

from collections.abc import Sequence


def shortly(error: Exception) -> str:
    """An error in a line, its kind first."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def listed(names: Sequence[str]) -> str:
    """A few names, or the first and the last of many."""
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]}, ..., {names[-1]}"
