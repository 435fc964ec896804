"""Inputs and targets from the columns of a table: features, gaps and values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.data.optional import import_optional
from hetfed_lightning.data.sources.frames import EXTRA, require_columns

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = [
    "Columns",
    "Rows",
    "as_numbers",
    "check_by_name",
    "finite_targets",
    "looks_like_number",
    "read_inputs",
    "read_values",
    "select_features",
]

Columns = Sequence[str] | Mapping[str, Sequence[str]] | None
"""Feature columns: for all participants, for each by name, or None for all there are."""

Floats = NDArray[np.float64]

_EXACT = 2.0**24
"""Largest whole number below which float32 holds every whole number."""

_LOST = 0.01
"""Largest tolerated share of a column's distinct whole numbers that become equal to another in float32."""

_FINE = 2**16
"""Number of distinct values in float32 above which a column is fine enough, whatever it had before."""

_NUMBER_LIKE = re.compile(r"[+-]?\s*\d[\d.,'\s]*%?")


@dataclass(frozen=True)
class Rows:
    """Rows of one participant.

    Attributes:
        participant: Name of the participant.
        path: File of the rows.
        frame: The rows.
        target: Name of the column to predict.
    """

    participant: str
    path: Path
    frame: DataFrame
    target: str

    @property
    def targets(self) -> Series[Any]:
        """Column to predict, N values."""
        return self.frame[self.target]

    def __str__(self) -> str:
        """Origin of the rows, for messages."""
        return f"{self.path}, participant {self.participant!r}"


def select_features(
    rows: Rows, features: Columns, participant_column: str | None, agreed: Sequence[str] = ()
) -> list[str]:
    """Names of one participant's feature columns.

    Args:
        rows: The participant's rows.
        features: The columns wanted; None for ``agreed``.
        participant_column: Column of the participants' names, if there is one.
        agreed: Columns of all participants (:func:`~hetfed_lightning.data.sources.matching.agreed_columns`).

    Returns:
        At least one name, each once.

    Raises:
        DataError: If a column is missing, listed twice, or is the target or the participants'.
    """
    reserved = {rows.target: "the target", participant_column: "the column of participants"}
    wanted = features.get(rows.participant) if isinstance(features, Mapping) else features
    if wanted is None and features is not None:
        raise DataError(f"{rows}: features are given by participant, but not for this one")
    wanted = [name.strip() for name in (agreed if wanted is None else wanted)]
    require_columns(rows.path, rows.frame, wanted)
    for position, name in enumerate(wanted):
        if name in reserved:
            raise DataError(f"{rows.path}: column {name!r} is {reserved[name]}: take it off the features")
        if name in wanted[:position]:
            raise DataError(f"{rows}: column {name!r} is listed twice among the features")
    if not wanted:
        raise DataError(f"{rows}: has no feature column")
    return wanted


def read_inputs(rows: Rows, features: Sequence[str], missing: Literal["keep", "drop"] | None) -> tuple[Tensor, Rows]:
    """Inputs of one participant, and the rows they belong to.

    Args:
        rows: The participant's rows.
        features: Names of the input columns.
        missing: Treatment of missing values, as for ``read_table``.

    Returns:
        Inputs, float32 of shape ``(N, columns)``, NaN where a gap is kept, and the N rows that were kept.

    Raises:
        DataError: If a column holds text, values are missing or infinite, or whole numbers become equal in float32.
    """
    columns = {name: as_numbers(rows.frame[name]) for name in features}
    text = [name for name, values in columns.items() if values is None]
    if text:
        shown = ", ".join(f"{name!r} ({_first_text(rows.frame[name])})" for name in text)
        raise DataError(
            f"{rows.path}: expected numbers in column {shown}, got text or dates: name it under categories "
            "(one input for each value), booleans or dates, drop it, or list the features to leave it out"
        )
    values = np.stack([column for column in columns.values() if column is not None], axis=1)
    absent, targetless = np.isnan(values), rows.targets.isna().to_numpy(dtype=bool)
    kept = np.ones(len(values), dtype=bool)
    if missing == "drop":
        kept = ~(absent.any(axis=1) | targetless)
        if not kept.any():
            raise DataError(
                f"{rows}: no row is left after dropping those with missing values, of {len(values)} in "
                f"column {_counted([*features, rows.target], np.column_stack([absent, targetless]))}"
            )
    else:
        _refuse_gaps(rows, features, absent, targetless, kept=missing is not None)
    left = Rows(rows.participant, rows.path, rows.frame[kept], rows.target)
    return _as_float32(left, features, values[kept]), left


def read_values(rows: Rows) -> Tensor:
    """Targets of a regression.

    Args:
        rows: The participant's rows, N of them.

    Returns:
        Shape ``(N,)``, float32.

    Raises:
        DataError: If the column holds text or infinite values, or whole numbers become equal in float32.
    """
    return _as_float32(rows, [rows.target], finite_targets(rows)[:, None])[:, 0]


def check_by_name(features: Columns, participants: Sequence[str]) -> None:
    """Refuse features given for a participant that is not in the data, or given as one text.

    Args:
        features: Feature columns as a user gave them.
        participants: Names of the participants in the data.

    Raises:
        DataError: If they are one text, or name an unknown participant.
    """
    if isinstance(features, str):
        raise DataError(f"expected a list of feature columns, got the text {features!r}")
    for name in features if isinstance(features, Mapping) else ():
        if name not in participants:
            hint = did_you_mean(name, participants)
            raise DataError(f"features are given for participant {name!r}, who is not in the data{hint}")


def as_numbers(column: Series[Any]) -> Floats | None:
    """Numbers or booleans as float64, missing ones as NaN, too large ones as infinite; None for other columns."""
    types = import_optional("pandas", EXTRA).api.types
    if types.is_numeric_dtype(column) and not types.is_complex_dtype(column):
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
    # Booleans with gaps, and whole numbers of more digits than a machine has, are read as objects.
    gaps = column.isna()
    if column.dtype != object or not all(isinstance(value, bool | int | float) for value in column[~gaps]):
        return None
    return np.array([math.nan if gap else _as_float(value) for value, gap in zip(column, gaps, strict=True)])


def looks_like_number(text: object) -> bool:
    """True if a cell is a number in a person's writing: ``12,5``, ``1 000``, ``5%``."""
    return _NUMBER_LIKE.fullmatch(str(text).strip()) is not None


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def finite_targets(rows: Rows) -> Floats:
    """Targets as float64, shape ``(N,)``.

    Raises:
        DataError: If one is text or infinite, with its row.
    """
    numbers = as_numbers(rows.targets)
    if numbers is None:
        found = _first_text(rows.targets)
        raise DataError(f"{rows}: expected numbers in target column {rows.target!r}, got text such as {found}")
    _refuse_infinite(rows, [rows.target], numbers[:, None])
    return numbers


def _refuse_gaps(
    rows: Rows,
    features: Sequence[str],
    absent: NDArray[np.bool_],
    targetless: NDArray[np.bool_],
    *,
    kept: bool,
) -> None:
    if targetless.any():
        raise DataError(
            f"{rows}: target column {rows.target!r} has {int(targetless.sum())} missing value(s) in "
            f"{len(absent)} rows (an empty cell, NA or None): fill them in, or set missing='drop'"
        )
    if absent.any() and not kept:
        raise DataError(
            f"{rows}: missing values, of {len(absent)} rows in column {_counted(features, absent)}: impute "
            "or drop them, set missing='mean' or 'drop', or leave the column out of the features"
        )


def _refuse_infinite(rows: Rows, names: Sequence[str], values: NDArray[np.floating[Any]]) -> None:
    infinite = np.isinf(values)
    if infinite.any():
        raise DataError(
            f"{rows}: values that are infinite, or too large for float32, in column {_counted(names, infinite)}, the "
            f"first in row {_row(rows, infinite)}: drop or clip them"
        )


def _counted(names: Sequence[str], flagged: NDArray[np.bool_]) -> str:
    counts = zip(names, flagged.sum(axis=0).tolist(), strict=True)
    return ", ".join(f"{name!r} ({count})" for name, count in counts if count)


def _as_float32(rows: Rows, names: Sequence[str], values: Floats) -> Tensor:
    with np.errstate(over="ignore"):
        narrowed = values.astype(np.float32)
    _refuse_infinite(rows, names, narrowed)
    for name, wide, narrow in zip(names, values.T, narrowed.T, strict=True):
        _refuse_collapsed(rows, name, wide, narrow)
    return torch.from_numpy(narrowed)


def _refuse_collapsed(rows: Rows, name: str, wide: Floats, narrow: NDArray[np.float32]) -> None:
    """Refuse a column of large whole numbers, such as seconds since 1970, that float32 does not tell apart.

    Digits that other numbers lose are noise, and so are a few equal ones among many.
    """
    large = (np.abs(wide) > _EXACT) & (wide == np.floor(wide))
    if not large.any():
        return
    # Values as in the file: beyond 2**53 float64 does not tell them apart either.
    found = rows.frame[name].iloc[np.flatnonzero(large)].drop_duplicates().sort_values()
    left = len(np.unique(narrow[large]))
    if len(found) - left <= _LOST * len(found) or left >= _FINE:
        return
    become = np.asarray(found.to_numpy(dtype=np.float64), dtype=np.float32)
    first = int((become[1:] == become[:-1]).argmax())
    one, other = (int(found.iloc[place]) for place in (first, first + 1))
    out = "" if name == rows.target else ", or leave the column out of the features"
    raise DataError(
        f"{rows}: whole numbers in column {name!r} are too large for float32, which everything is computed in: "
        f"{len(found)} different ones become {left}, {one} and {other} for instance become equal. Subtract an offset, "
        f"the same for all participants, or round to a coarser unit (days instead of seconds){out}"
    )


def _row(rows: Rows, flagged: NDArray[np.bool_]) -> int:
    """The first row of the file in which something is flagged, counted from 1 below the header."""
    return int(rows.frame.index[int(flagged.any(axis=1).argmax())]) + 1


def _first_text(column: Any) -> str:
    """The first value of a column that is no number, and its row, counted from 1 below the header."""
    for row, value in column.dropna().items():
        try:
            float(value)
        except (TypeError, ValueError):
            if looks_like_number(value):
                return f"{value!r:.60} in row {row + 1}; if its comma is a decimal one, set decimal: ','"
            return f"{value!r:.60} in row {row + 1}"
        except OverflowError:
            continue
    return f"as {next(iter(column.dropna()), '')!r:.60}"
