"""Columns of yes and no as 1 and 0, by the usual words or by two that are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.name_checks import folded
from hetfed_lightning.data.sources.columns import Rows
from hetfed_lightning.data.sources.frames import imported_pandas

__all__ = ["Truths", "declared_truths", "truth_values"]

Truths = Mapping[str, Sequence[str] | None] | Sequence[str] | None
"""Columns of yes and no, with the words for no and for yes of each; None, or a list of columns, for the usual words."""

_WORDS: Mapping[str, float] = {
    **dict.fromkeys(("0", "0.0", "f", "false", "n", "no", "off"), 0.0),
    **dict.fromkeys(("1", "1.0", "t", "true", "y", "yes", "on"), 1.0),
}
"""Usual words, in any case."""


def declared_truths(given: Truths) -> dict[str, dict[str, float]]:
    """Value of each word, without regard to case, by column.

    Args:
        given: Columns and words as a user gave them.

    Raises:
        DataError: If there are not two words, or they are one.
    """
    if isinstance(given, str):
        raise DataError(f"booleans: expected a list of columns, got the text {given!r}")
    named: Mapping[str, Sequence[str] | None] = given if isinstance(given, Mapping) else dict.fromkeys(given or ())
    found = {}
    for column, words in named.items():
        if words is not None and (isinstance(words, str) or len({folded(word) for word in words}) != 2):
            raise DataError(
                f"booleans: expected two words for column {column!r}, that for no and that for yes, got {words!r}"
            )
        own = None if words is None else [folded(word) for word in words]
        found[column] = dict(_WORDS) if own is None else {own[0]: 0.0, own[1]: 1.0}
    return found


def truth_values(rows: Rows, column: str, words: Mapping[str, float]) -> NDArray[np.float64]:
    """Values of a column of yes and no: 1, 0, or NaN where one is missing, shape ``(N,)``.

    Args:
        rows: The participant's rows.
        column: Name of the column.
        words: Value of each word.

    Raises:
        DataError: If a cell is another word, with its row.
    """
    pandas = imported_pandas()
    cells = rows.frame[column]
    values: dict[Any, float] = {
        cell: words.get(folded(str(cell)), np.inf) for cell in pandas.unique(cells) if not pandas.isna(cell)
    }
    found = np.asarray(cells.map(values), dtype=np.float64)
    if np.isinf(found).any():
        place = int(np.isinf(found).argmax())
        raise DataError(
            f"{rows}: expected {' or '.join(map(repr, words))} in column {column!r}, got {cells.iloc[place]!r:.60} in "
            f"row {int(rows.frame.index[place]) + 1}: correct it, give the two words, booleans: {{{column}: [NO, YES]}}"
            ", or name the column under categories"
        )
    return found
