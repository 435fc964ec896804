"""Short forms of participants' names and of errors for lines of the log."""

from __future__ import annotations

from collections.abc import Sequence


def short_error(error: Exception) -> str:
    """An error in one line, its type first, at most 200 characters."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def listed(names: Sequence[str]) -> str:
    """Names joined by commas: all of up to four, else the first two and the last."""
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]}, ..., {names[-1]}"
