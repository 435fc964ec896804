"""Plain data of the other side, checked against a dataclass: types, ranges and sizes stand beside its attributes.

``samples: Annotated[int, Range(1, 10**12)]`` declares a number completely; :func:`made` refuses any other value and
names the entry. Only data that travels as JSON is known: numbers, texts, lists, objects, but no classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from hetfed_lightning.flower.protocol.untrusted import NAME, is_name, shown

T = TypeVar("T")

DIGITS = 20
"""Largest number of digits of a whole number in a text; 64 bits have as many."""

PARTS = 1_000_000
"""Largest number of lists, objects and entries in a text: 10 MB of empty lists would take 20 times that memory."""

_MOST_KEY = 4


class PlainDataError(ValueError):
    """Data that are not as declared; the message names the entry, what was expected and what was found."""


class Limit(Protocol):
    """A limit that may stand beside a type in ``Annotated``."""

    def fault(self, value: Any) -> str:
        """Expected value, in words, if a value of the type is outside the limit; else empty."""


@dataclass(frozen=True)
class Range:
    """Least and largest value of a number."""

    least: int
    most: int

    def fault(self, value: Any) -> str:
        """Expected range, in words, if a number is outside it; else empty."""
        return "" if self.least <= value <= self.most else f"a number from {self.least} to {self.most}"


@dataclass(frozen=True)
class Text:
    """Largest length of a text, which has to be printable."""

    most: int = NAME
    may_be_empty: bool = False

    def fault(self, value: Any) -> str:
        """Expected text, in words, if a text is too long or not printable; else empty."""
        fits = is_name(value, self.most) or (self.may_be_empty and value == "")
        return "" if fits else f"a printable text of at most {self.most} characters"


@dataclass(frozen=True)
class Size:
    """Largest number of entries of a list or an object."""

    most: int

    def fault(self, value: Any) -> str:
        """Expected size, in words, if there are more entries; else empty."""
        return "" if len(value) <= self.most else f"at most {self.most} entries"


def read_json(text: str, most: int) -> Any:
    """Value of a JSON text of bounded length, depth and number of digits, without NaN.

    Args:
        text: Text of the other side.
        most: Largest number of characters.

    Raises:
        PlainDataError: If it is longer or deeper, or is no JSON.
    """
    if len(text) > most:
        raise PlainDataError(f"expected at most {most} characters, got {len(text)}.")
    if sum(map(text.count, "[{,")) > PARTS:
        raise PlainDataError(f"expected at most {PARTS} entries.")
    try:
        return json.loads(text, parse_int=_whole, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise PlainDataError(f"no JSON that can be read ({shown(str(error))}).") from error


def made(kind: type[T], found: Any) -> T:
    """Instance of a dataclass, from an object read from JSON.

    Args:
        kind: The dataclass; entries that it does not declare are ignored.
        found: Object that was read.

    Raises:
        PlainDataError: If an entry is missing, or is not as declared.
    """
    if not isinstance(found, dict):
        raise PlainDataError(f"expected entries by name, got {shown(found)}.")
    hints = get_type_hints(kind, include_extras=True)
    for name in hints:
        if name not in found:
            raise PlainDataError(f"{name!r} is missing.")
    return kind(**{name: _checked(hint, found[name], name) for name, hint in hints.items()})


def _checked(hint: Any, value: Any, where: str) -> Any:
    """A value of the declared type: lists become tuples, keys of objects become whole numbers if these are declared."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        read = _checked(arguments[0], value, where)
        for limit in arguments[1:]:
            if expected := limit.fault(read):
                raise _error(expected, value, where)
        return read
    if origin in {Union, UnionType}:
        return _one_of(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise _error(f"one of {', '.join(map(repr, arguments))}", value, where)
        return value
    if origin is tuple:
        return _row(arguments, value, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _error("entries by name", value, where)
        key_type, kind = arguments
        return {
            _key(key_type, key, where): _checked(kind, one, f"{where}.{shown(key).strip(_QUOTES)}")
            for key, one in value.items()
        }
    if type(value) is not hint:
        raise _error("nothing" if hint is NoneType else hint.__name__, value, where)
    return value


_QUOTES = "'\""


def _one_of(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    faults = []
    for hint in hints:
        try:
            return _checked(hint, value, where)
        except PlainDataError as error:
            faults.append(error)
    raise faults[0]


def _row(hints: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _error("a list", value, where)
    if hints[-1] is not Ellipsis and len(value) != len(hints):
        raise _error(f"{len(hints)} entries", value, where)
    kinds = [hints[0]] * len(value) if hints[-1] is Ellipsis else hints
    return tuple(_checked(kind, one, where) for kind, one in zip(kinds, value, strict=True))


def _key(hint: Any, key: str, where: str) -> Any:
    if hint is not int:
        return _checked(hint, key, where)
    if not (key.isascii() and key.isdecimal() and len(key) <= _MOST_KEY):
        raise _error("whole numbers for keys", key, where)
    return int(key)


def _error(expected: str, value: Any, where: str) -> PlainDataError:
    return PlainDataError(f"expected {expected} under {where!r}, got {shown(value)}.")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")
