"""Words of the other side, made fit for a log, a table, TensorBoard, a record and a page: one line, printable, short.

Whoever sends a text can send line breaks that look like lines of ours, sequences that steer a terminal, marks that turn
a line around, markup, and millions of characters. Texts that are told go through :func:`one_line`, values that an error
shows through :func:`shown`; names by which something is found are refused where they are not :func:`is_name`.
"""

from __future__ import annotations

import reprlib

LINE = 300
"""Characters of a sentence."""

NAME = 200
"""Characters of a name: of a key, a metric, a class."""

_MARKUP = frozenset("<>|`")
"""What ends a cell of a table or begins markup, in the pages that are made of texts."""


def one_line(text: object, most: int = LINE) -> str:
    """A text on one line: what does not print, or is markup, becomes a space, and the rest is cut.

    Args:
        text: Of the other side; anything but a string is empty.
        most: Characters that are kept, the three dots of a cut among them.
    """
    if not isinstance(text, str):
        return ""
    seen = text[: 2 * most + 100]  # Spaces that run together would hide what comes after them.
    line = " ".join("".join(one if _is_told(one) else " " for one in seen).split())
    whole = len(line) <= most and len(seen) == len(text)
    return line if whole else f"{line[: most - 3]}..."


def shown(value: object) -> str:
    """A value as an error shows it: its ``repr``, of a bounded length and depth."""
    return one_line(_SHORT.repr(value), 120)


def is_name(text: object, most: int = NAME) -> bool:
    """Whether a text can be a name: printable, not empty and of bounded length.

    Args:
        text: Of the other side.
        most: Characters.
    """
    return isinstance(text, str) and 0 < len(text) <= most and text.isprintable()


def _is_told(character: str) -> bool:
    return character.isprintable() and character not in _MARKUP


class _Short(reprlib.Repr):
    """Shorter than the standard library's, which shows whole numbers of any length first."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 60
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        """A number, or how long it is: writing out thousands of digits takes a while, and is refused by Python."""
        return f"a number of {x.bit_length()} bits" if x.bit_length() > 64 else super().repr_int(x, level)

    def repr_str(self, x: str, level: int) -> str:
        """A text's beginning."""
        return super().repr_str(x[: self.maxstring + 1], level)


_SHORT = _Short()
