"""New rows for a participant that is trained already: inputs by the names of its columns, and the truth, if any.

The columns of the rows may stand in any order, and further ones are ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.data.sources.columns import as_numbers, looks_like_number
from hetfed_lightning.data.sources.encodings import Encodings
from hetfed_lightning.data.sources.new_encodings import made_columns

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["read_new_inputs", "read_truth", "require_once"]

log = logging.getLogger(__name__)

NO_ENCODINGS = Encodings()
"""Encodings of rows of numbers."""

SHOWN = 5
"""Most columns, or classes, in a message."""


def read_new_inputs(
    frame: DataFrame,
    columns: Sequence[str],
    origin: str,
    *,
    gaps: bool,
    positions: NDArray[np.int64] | None = None,
    encodings: Encodings = NO_ENCODINGS,
) -> Tensor:
    """Inputs of new rows, float32 of shape ``(n, columns)``, NaN where a value is missing.

    Args:
        frame: The rows, N of them, with the columns under their names.
        columns: Names of the input columns, in the order of the training.
        origin: File or other origin of the rows, and whose columns they are, for messages.
        gaps: True if missing values are filled in later; False to refuse them.
        positions: Positions of the rows to take, from 0, shape ``(n,)``; None for all.
        encodings: What was made of columns that are no numbers.

    Raises:
        DataError: If there is no row; a column is missing, there twice, or holds text, dates or infinite values; a
            value is missing and ``gaps`` is False. The message names origin, column and row, counted from 1.
    """
    if not len(frame):
        raise DataError(f"{origin}: expected at least one row, got none")
    positions = np.arange(len(frame)) if positions is None else positions
    made = made_columns(frame, encodings, columns, origin, positions)
    require_once(frame, [name for name in columns if name not in made], origin)
    read = [made[name] if name in made else _numbers(frame[name], name, origin, positions) for name in columns]
    with np.errstate(over="ignore"):
        values = np.stack(read, axis=1).astype(np.float32)
    _refuse(
        np.isinf(values),
        columns,
        positions,
        f"{origin}: a value that is infinite, or too large for float32,",
        "correct it",
    )
    if not gaps:
        remedy = "fill it in, or train with missing='mean', which learns what stands in for a gap"
        _refuse(np.isnan(values), columns, positions, f"{origin}: a missing value", remedy)
    return torch.from_numpy(values)


def read_truth(
    frame: DataFrame, target: str, classes: Sequence[str], origin: str, *, values: bool
) -> NDArray[Any] | None:
    """Truth of new rows as the file has it, N of them, None where a row has none; None if no row has any.

    Args:
        frame: The rows.
        target: Column of the truth; it may be missing.
        classes: Names of the classes in training; empty where labels are numbers.
        origin: As for :func:`read_new_inputs`.
        values: True for a regression, whose truth are numbers.

    Raises:
        DataError: If the column is there twice, or of a regression and holds text.
    """
    if target not in list(frame.columns):
        return None
    require_once(frame, [target], origin)
    column = frame[target]
    if bool(column.isna().all()):
        return None
    if values:
        found: list[Any] = _numbers(column, target, origin, np.arange(len(column))).tolist()
        return np.array([None if value != value else value for value in found], dtype=object)  # noqa: PLR0124 - NaN
    names = _label_names(column, classes)
    unknown = sorted({str(name) for name in names if classes and name is not None and name not in classes})
    if unknown:
        log.warning(
            "%s: column %r has classes that nobody knew in training: %s; they are: %s.",
            origin, target, ", ".join(map(repr, unknown[:SHOWN])), ", ".join(map(repr, classes[:SHOWN])),
        )  # fmt: skip
    return np.array(names, dtype=object)


def require_once(frame: DataFrame, wanted: Sequence[str], origin: str) -> None:
    """Refuse a frame that lacks a column, or has it twice.

    Args:
        frame: The rows.
        wanted: Names of the columns.
        origin: As for :func:`read_new_inputs`.

    Raises:
        DataError: Naming all columns that are missing, with the closest name that is there.
    """
    present = [str(name) for name in frame.columns]
    lacking = [name for name in wanted if name not in present]
    if lacking:
        hint = did_you_mean(lacking[0], present)
        more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
        raise DataError(f"{origin}: has no column {', '.join(map(repr, lacking[:SHOWN]))}{more}{hint}")
    twice = next((name for name in wanted if present.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{origin}: column {twice!r} occurs twice: rename or drop one")


def _numbers(column: Series[Any], name: str, origin: str, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Some rows of a column as float64, shape ``(n,)``; all NaN without any value, which a file has as text."""
    part = column.iloc[positions]
    if bool(part.isna().all()):
        return np.full(len(part), np.nan)
    numbers = as_numbers(part)
    if numbers is None:
        row, found = _first_text(column)
        raise DataError(
            f"{origin}: expected numbers in column {name!r}, as in training, got {found!r:.60} in row {row} "
            f"(the column is {column.dtype}): write it as a number"
        )
    return numbers


def _first_text(column: Series[Any]) -> tuple[int, Any]:
    """Row, counted from 1, and value of the first cell that is no number: it made text of the numbers beside it."""
    known = zip(range(1, len(column) + 1), column, column.isna(), strict=True)
    cells = [(row, cell) for row, cell, gap in known if not gap]
    return next((one for one in cells if not looks_like_number(one[1])), cells[0])


def _label_names(column: Series[Any], classes: Sequence[str]) -> list[Any]:
    """Labels by name, whole numbers without a decimal point; numbers where classes have no names."""
    numbers, gaps = as_numbers(column), column.isna().tolist()
    if numbers is None:
        return [None if gap else str(value) for value, gap in zip(column, gaps, strict=True)]
    whole = [int(value) if value.is_integer() else value for value in numbers.tolist()]
    if set(classes) & {"True", "False"}:
        whole = [bool(value) for value in whole]
    return [None if gap else str(value) if classes else value for value, gap in zip(whole, gaps, strict=True)]


def _refuse(
    flagged: NDArray[np.bool_], columns: Sequence[str], positions: NDArray[np.int64], what: str, remedy: str
) -> None:
    if flagged.any():
        row, place = np.argwhere(flagged)[0].tolist()
        counts = zip(columns, flagged.sum(axis=0).tolist(), strict=True)
        counted = ", ".join(f"{name!r} ({count})" for name, count in counts if count)
        raise DataError(f"{what} in column {columns[place]!r}, row {positions[row] + 1} (in all: {counted}): {remedy}")
