"""Texts of the other side, made fit for a log, a table, TensorBoard, a record and a page: one line, printable, short.

A sender of text can send line breaks, which look like our own lines, control sequences of a terminal, marks that
reverse a line, markup, and millions of characters. Texts to be shown go through :func:`one_line`, values in errors
through :func:`shown`. Names for look-ups are refused unless :func:`is_name`.
"""

from __future__ import annotations

import reprlib

LINE = 300
"""Largest number of characters of a sentence."""

NAME = 200
"""Largest number of characters of a name, such as that of a key, a metric or a class."""

_MARKUP = frozenset("<>|`")
"""Characters that end a cell of a table or begin markup, in pages made of texts."""


def one_line(text: object, most: int = LINE) -> str:
    """Text on one line: characters that are not printable, or are markup, become spaces, and the rest is cut.

    Args:
        text: Text of the other side; any other value gives an empty text.
        most: Largest number of characters, with the three dots of a cut.
    """
    if not isinstance(text, str):
        return ""
    seen = text[: 2 * most + 100]  # Spaces that run together would hide what comes after them.
    line = " ".join("".join(one if _is_told(one) else " " for one in seen).split())
    whole = len(line) <= most and len(seen) == len(text)
    return line if whole else f"{line[: most - 3]}..."


def shown(value: object) -> str:
    """Value for an error message: its ``repr``, of bounded length and depth."""
    return one_line(_SHORT.repr(value), 120)


def is_name(text: object, most: int = NAME) -> bool:
    """True if a text can be a name: printable, not empty and of bounded length.

    Args:
        text: Text of the other side.
        most: Largest number of characters.
    """
    return isinstance(text, str) and 0 < len(text) <= most and text.isprintable()


def _is_told(character: str) -> bool:
    return character.isprintable() and character not in _MARKUP


class _Short(reprlib.Repr):
    """Shorter ``repr`` than the standard library's, which writes out whole numbers of any length first."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 60
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        """A number, or its length: writing out thousands of digits takes a while, and is refused by Python."""
        return f"a number of {x.bit_length()} bits" if x.bit_length() > 64 else super().repr_int(x, level)

    def repr_str(self, x: str, level: int) -> str:
        """First characters of a text."""
        return super().repr_str(x[: self.maxstring + 1], level)


_SHORT = _Short()
