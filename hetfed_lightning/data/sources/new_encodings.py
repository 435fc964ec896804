"""Encoded columns of new rows: categories, words of yes and no, and dates become the inputs that training had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hetfed_lightning.data.sources.columns import Rows
from hetfed_lightning.data.sources.encodings import Encodings, encoded

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["encodings_from", "encodings_to", "made_columns"]


@dataclass(frozen=True)
class _New(Rows):
    """Rows that are called by their origin in messages."""

    def __str__(self) -> str:
        return str(self.path)


def made_columns(
    frame: DataFrame, encodings: Encodings, columns: Sequence[str], origin: str, positions: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Inputs that encodings make, by name, each of shape ``(n,)``; those of ``columns`` alone.

    Args:
        frame: All rows.
        encodings: What was made of which columns in training.
        columns: Names of the participant's inputs.
        origin: File or other origin of the rows, for messages.
        positions: Positions of the rows to take, shape ``(n,)``.

    Raises:
        DataError: If a column is missing, or a value cannot be read, naming origin, column and row.
    """
    wanted = encodings.wanted_by(columns)
    if not wanted.columns:
        return {}
    rows = _New("", Path(origin), frame.reset_index(drop=True).iloc[positions], "")
    made = encoded([rows], wanted, columns)
    names = {*(name for parts in made.parts.values() for name in parts), *wanted.booleans}
    found = made.everyones[0].frame
    return {name: np.asarray(found[name], dtype=np.float64) for name in columns if name in names}


def encodings_to(encodings: Encodings) -> dict[str, Any]:
    """Plain lists and texts by name, for checkpoints and files; empty without an encoding."""
    if not encodings.columns:
        return {}
    return {
        "categories": {name: None if one is None else list(one) for name, one in encodings.categories.items()},
        "booleans": {name: dict(words) for name, words in encodings.booleans.items()},
        "dates": {name: list(parts) for name, parts in encodings.dates.items()},
        "date_format": encodings.date_format,
    }


def encodings_from(found: Any) -> Encodings:
    """Encodings that :func:`encodings_to` wrote.

    Raises:
        ValueError: If an entry is missing or of another kind, by name.
    """
    if not found:
        return Encodings()
    if not isinstance(found, Mapping):
        raise ValueError(f"schema: expected encodings by name, got {found!r:.80}")  # noqa: TRY004 - of a file
    words = found.get("booleans", {})
    if not isinstance(words, Mapping) or not all(_are_words(one) for one in words.values()):
        raise ValueError(f"schema: expected 0 or 1 for each word under 'booleans', got {words!r:.80}")
    form = found.get("date_format")
    if form is not None and not isinstance(form, str):
        raise ValueError(f"schema: expected a text under 'date_format', got {form!r:.80}")
    try:
        checked = Encodings.of(found.get("categories"), None, found.get("dates"), form)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"schema: expected columns by name under 'categories' and 'dates' ({error})") from error
    return Encodings(checked.categories, {name: dict(one) for name, one in words.items()}, checked.dates, form)


def _are_words(found: Any) -> bool:
    return isinstance(found, Mapping) and all(isinstance(word, str) and v in {0, 1} for word, v in found.items())
