"""Columns of categories as one-hot inputs, by a vocabulary that is declared, or agreed among all participants.

An input for each category, one for values that are not in the vocabulary and one for missing values, so that the
number of inputs depends on the vocabulary alone. A vocabulary holds names alone; like that of the classes it is taken
of all rows where it is not declared, test rows too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.name_checks import did_you_mean, refuse_spellings, refuse_twin_names
from hetfed_lightning.data.sources.columns import Rows
from hetfed_lightning.data.sources.frames import imported_pandas

if TYPE_CHECKING:
    from pandas import Series

__all__ = [
    "MISSING",
    "UNKNOWN",
    "Categories",
    "agreed_categories",
    "category_columns",
    "declared_categories",
    "one_hot",
]

log = logging.getLogger(__name__)

Categories = Mapping[str, Sequence[str | int] | None] | Sequence[str] | None
"""Vocabulary of each column of categories; None, or a list of columns alone, for the values that are there."""

UNKNOWN = "(unknown)"
"""Name of the input for values that are not in the vocabulary."""
MISSING = "(missing)"
"""Name of the input for missing values."""

MOST = 1000
"""Largest vocabulary that is agreed without being declared: more values are names of rows, or free text."""

SHOWN = 5
"""Most unknown values in a line of the log."""

_GAPS = frozenset(
    {"", "#N/A", "#NA", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "-nan", "-NaN", "#N/A N/A"}
)
"""Texts that stand for a missing value, as in a column of numbers, unless they are declared."""
_WHOLE = re.compile(r"([+-]?\d+)\.0+")


def declared_categories(given: Categories) -> dict[str, list[str] | None]:
    """Vocabulary of each column of categories by its name, or None where it is to be agreed.

    Args:
        given: Columns and vocabularies as a user gave them.

    Raises:
        DataError: If a vocabulary is empty, names a value twice or is one text.
    """
    if isinstance(given, str):
        raise DataError(f"categories: expected columns by name, or a list of them, got the text {given!r}")
    if not isinstance(given, Mapping):
        return dict.fromkeys(given or ())
    found: dict[str, list[str] | None] = {}
    for column, values in given.items():
        if values is None:
            found[column] = None
            continue
        if isinstance(values, str) or not values:
            raise DataError(f"categories: expected the values of column {column!r}, or null for all, got {values!r}")
        names = [_spelled(value) for value in values]
        refuse_twin_names(names, "category", f"categories, column {column!r}")
        if taken := {UNKNOWN, MISSING} & set(names):
            raise DataError(f"categories, column {column!r}: {taken.pop()!r} has an input of its own: take it out")
        found[column] = names
    return found


def agreed_categories(
    everyones: Sequence[Rows], column: str, declared: Sequence[str] | None, features: Sequence[str] = ()
) -> list[str]:
    """Vocabulary of a column, in order.

    Args:
        everyones: Rows of the participants that have the column.
        column: Name of the column.
        declared: The vocabulary; None for that of ``features``, or else the sorted values that are there.
        features: Names of input columns, among which those of a trained participant tell its vocabulary.

    Raises:
        DataError: If two participants spell a value differently in case or outer blanks alone; if there is no value, or
            there are more than 1000.
    """
    if declared is not None:
        return list(declared)
    start = f"{column}="
    known = [name.removeprefix(start) for name in features if name.startswith(start)]
    if known:
        return [name for name in known if name not in {UNKNOWN, MISSING}]
    found = {str(rows): [name for name in _names(rows.frame[column]) if name is not None] for rows in everyones}
    refuse_spellings(found, f"value of column {column!r}, categories:")
    values = {name for names in found.values() for name in names}
    if not values or len(values) > MOST:
        raise DataError(
            f"categories: column {column!r} has {len(values)} different values in {everyones[0].path}"
            f"{' and other files' if len(everyones) > 1 else ''}, expected 1 to {MOST}: declare those that matter, "
            f"categories: {{{column}: [...]}}, or leave the column out"
        )
    return sorted(values, key=_in_order)


def category_columns(column: str, vocabulary: Sequence[str]) -> list[str]:
    """Names of the inputs of a column of categories, in order: ``"smoker=never"`` and so on.

    Args:
        column: Name of the column.
        vocabulary: Its categories, in order.
    """
    return [f"{column}={name}" for name in (*vocabulary, UNKNOWN, MISSING)]


def one_hot(rows: Rows, column: str, vocabulary: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
    """Inputs of a column of categories by name, each 0 or 1 and of shape ``(N,)``; unknown values are logged.

    Args:
        rows: The participant's rows.
        column: Name of the column.
        vocabulary: Its categories, in order.
    """
    pandas = imported_pandas()
    values, places = pandas.unique(rows.frame[column]), {name: place for place, name in enumerate(vocabulary)}
    codes = pandas.Categorical(rows.frame[column], categories=[one for one in values if not pandas.isna(one)]).codes
    own = [_name(value, places) for value in values if not pandas.isna(value)]
    unknown, missing = len(vocabulary), len(vocabulary) + 1
    # The last entry is that of code -1, a gap.
    where = np.array([missing if name is None else places.get(name, unknown) for name in own] + [missing])[codes]
    strange = [name for name in own if name is not None and name not in places]
    if strange:
        shown = ", ".join(map(repr, strange[:SHOWN])) + (", ..." if len(strange) > SHOWN else "")
        log.warning(
            "%s: %d of %d values in column %r are not in its vocabulary and count as unknown: %s%s",
            rows, int((where == unknown).sum()), len(where), column, shown, did_you_mean(strange[0], vocabulary),
        )  # fmt: skip
    return {name: (where == place).astype(np.uint8) for place, name in enumerate(category_columns(column, vocabulary))}


def _names(column: Series[Any]) -> list[str | None]:
    return [_name(value, ()) for value in column.dropna().unique()]


def _name(value: object, declared: Mapping[str, int] | tuple[()]) -> str | None:
    """Name of a category, None for a text that stands for a missing value and is not declared."""
    name = _spelled(value)
    return None if name in _GAPS and name not in declared else name


def _spelled(value: object) -> str:
    """A value as text; 2.0, as whole numbers beside gaps are read, is 2."""
    text = str(value).strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _in_order(name: str) -> tuple[float, str]:
    """Numbers by their size, texts in alphabetical order after them."""
    try:
        return float(name), name
    except ValueError:
        return float("inf"), name
