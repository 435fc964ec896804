"""Filter of a log with words of other parties: lines are cut, free of control characters, and limited per minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

LONGEST = 400
"""Largest number of characters of a line."""
PER_MINUTE = 300
"""Largest number of lines in a minute; at full length, a day has 170 MB."""


class LogBudget(logging.Filter):
    """Filter for short, plain and few lines; a line says so when a minute has more.

    Args:
        per_minute: Largest number of lines in a minute.
        clock: Function that gives the time in seconds.
    """

    def __init__(self, per_minute: int = PER_MINUTE, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._per_minute = per_minute
        self._clock = clock
        self._begun = clock()
        self._count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """True if a line is to be written; cleans it."""
        now = self._clock()
        if now - self._begun >= 60:
            self._begun, self._count = now, 0
        self._count += 1
        if self._count > self._per_minute:
            return False
        if self._count == self._per_minute:
            record.msg, record.exc_info, record.exc_text = "What else is said in this minute is left out.", None, None
        else:
            record.msg = plain(record.getMessage())
            if record.exc_info:
                text = logging.Formatter().formatException(record.exc_info).splitlines()[-20:]
                record.exc_info, record.exc_text = None, "\n".join(map(plain, text))
        record.args = ()
        return True


def plain(text: str, longest: int = LONGEST) -> str:
    """Text in one line, cut, with control characters as escapes.

    Args:
        text: The text.
        longest: Largest number of characters.
    """
    cut = text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in cut)
