"""Columns of dates as numbers: their parts, and days since a day or since another column's date."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.data.sources.columns import Rows, as_numbers
from hetfed_lightning.data.sources.frames import imported_pandas

if TYPE_CHECKING:
    from pandas import Series

__all__ = ["Dates", "date_columns", "date_numbers", "declared_dates", "read_dates"]

Dates = Mapping[str, Sequence[str]]
"""Numbers made of each column of dates: names of parts, or ``"days since ..."``."""

_PARTS: Mapping[str, Callable[[Any], Any]] = {
    "year": lambda dates: dates.year,
    "month": lambda dates: dates.month,
    "day": lambda dates: dates.day,
    "weekday": lambda dates: dates.day_of_week,
    "day of year": lambda dates: dates.day_of_year,
    "hour": lambda dates: dates.hour + dates.minute / 60,
}
"""Parts of a date: months from 1, weekdays from 0 for Monday, hours with a fraction for the minutes."""

_SINCE = "days since "
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_SECONDS = 86_400


def declared_dates(given: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    """Parts of each column of dates, and an empty list for those that only others count from.

    Args:
        given: Columns and parts as a user gave them.

    Raises:
        DataError: If a part is unknown.
    """
    found: dict[str, list[str]] = {}
    for column, parts in (given or {}).items():
        if isinstance(parts, str) or not isinstance(parts, Sequence):
            raise DataError(f"dates: expected a list of parts of column {column!r}, got {parts!r}")
        for part in parts:
            if part not in _PARTS and not part.startswith(_SINCE):
                known = [*_PARTS, "days since 2000-01-01", "days since COLUMN"]
                raise DataError(f"dates: column {column!r} has no part {part!r}; there is {', '.join(known)}")
        found[column] = list(parts)
    for part in [part for parts in found.values() for part in parts]:
        other = part.removeprefix(_SINCE)
        if part.startswith(_SINCE) and not _DAY.fullmatch(other):
            found.setdefault(other, [])
    return found


def date_columns(column: str, parts: Sequence[str]) -> list[str]:
    """Names of the numbers made of a column of dates, in order: ``"admitted month"`` and so on.

    Args:
        column: Name of the column.
        parts: What is made of it.
    """
    return [f"{column} {part}" for part in parts]


def date_numbers(
    rows: Rows, column: str, parts: Sequence[str], date_format: str | None
) -> dict[str, NDArray[np.float64]]:
    """Numbers made of a column of dates by name, each of shape ``(N,)``, NaN where a date is missing.

    Args:
        rows: The participant's rows.
        column: Name of the column.
        parts: What is made of it.
        date_format: As for :func:`read_dates`.

    Raises:
        DataError: If a value is no date, or the column that is counted from is missing.
    """
    pandas = imported_pandas()
    dates = read_dates(rows, column, date_format)
    found: dict[str, NDArray[np.float64]] = {}
    for name, part in zip(date_columns(column, parts), parts, strict=True):
        if part in _PARTS:
            found[name] = np.asarray(_PARTS[part](dates.dt), dtype=np.float64)
            continue
        other = part.removeprefix(_SINCE)
        start = pandas.Timestamp(other) if _DAY.fullmatch(other) else read_dates(rows, other, date_format)
        found[name] = np.asarray((dates - start).dt.total_seconds() / _SECONDS, dtype=np.float64)
    return found


def read_dates(rows: Rows, column: str, date_format: str | None) -> Series[Any]:
    """Dates of a column, N of them, NaT where one is missing; times with an offset in UTC.

    Args:
        rows: The participant's rows.
        column: Name of the column.
        date_format: Form of the dates, as ``"%d.%m.%Y"``; None for ISO 8601.

    Raises:
        DataError: If the column is missing, or a value is no date of that form, with its row.
    """
    pandas = imported_pandas()
    if column not in rows.frame.columns:
        hint = did_you_mean(column, [str(name) for name in rows.frame.columns])
        raise DataError(f"{rows}: has no column {column!r} of dates{hint}")
    cells: Series[Any] = rows.frame[column]
    if bool(cells.isna().all()):
        none: Series[Any] = pandas.Series(pandas.NaT, index=cells.index, dtype="datetime64[us]")
        return none
    if as_numbers(cells) is not None and date_format is None:
        first = next(iter(cells.dropna()))
        raise DataError(
            f"{rows}: expected dates in column {column!r}, got numbers such as {first}: numbers go in as they are, or "
            "give their form, date_format: '%Y%m%d'"
        )
    texts = cells
    if as_numbers(cells) is not None:  # 20240131, and 20240131.0 beside gaps
        texts = cells.astype("Int64").astype("string")
    dates = pandas.to_datetime(texts, format=date_format or "ISO8601", errors="coerce", utc=True)
    wrong = (dates.isna() & cells.notna()).to_numpy(dtype=bool)
    if wrong.any():
        place = int(wrong.argmax())
        form = f"of the form {date_format}" if date_format else "as 2024-01-31 or 2024-01-31 18:30"
        raise DataError(
            f"{rows}: expected dates {form} in column {column!r}, got {cells.iloc[place]!r:.60} in row "
            f"{int(rows.frame.index[place]) + 1}: correct it, or set date_format, such as '%d.%m.%Y'"
        )
    found: Series[Any] = dates.dt.tz_localize(None)
    return found
