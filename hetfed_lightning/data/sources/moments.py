"""Order of a participant's rows in time, and a split by it: what comes later never trains for what came before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.sources.columns import Rows, as_numbers
from hetfed_lightning.data.sources.dates import read_dates
from hetfed_lightning.data.sources.frames import imported_pandas

__all__ = ["cut_at", "cut_in_time", "in_time", "moment", "moments"]

Moments = NDArray[np.float64]


def moments(rows: Rows, column: str, date_format: str | None) -> Moments:
    """Moment of each row, shape ``(N,)``: seconds since 1970, or the numbers of a column of numbers.

    Args:
        rows: The participant's rows.
        column: Column of dates or numbers.
        date_format: Form of the dates; None for ISO 8601.

    Raises:
        DataError: If the column is missing, or a row has no moment.
    """
    numbers = as_numbers(rows.frame[column]) if column in rows.frame.columns and date_format is None else None
    if numbers is None:
        pandas = imported_pandas()
        since = read_dates(rows, column, date_format) - pandas.Timestamp("1970-01-01")
        numbers = np.asarray(since.dt.total_seconds(), dtype=np.float64)
    missing = ~np.isfinite(numbers)
    if missing.any():
        row = int(rows.frame.index[int(missing.argmax())]) + 1
        raise DataError(
            f"{rows}: {int(missing.sum())} of {len(numbers)} rows have no date in column {column!r}, by which they are "
            f"split, the first is row {row}: fill it in, or leave those rows out of the table"
        )
    return numbers


def moment(text: str | float) -> float:
    """A moment of a setting: a number, or a date in ISO 8601 as seconds since 1970.

    Args:
        text: The setting.

    Raises:
        DataError: If it is neither.
    """
    pandas = imported_pandas()
    if not isinstance(text, str):
        return float(text)
    try:
        return float((pandas.to_datetime(text, format="ISO8601") - pandas.Timestamp("1970-01-01")).total_seconds())
    except (ValueError, TypeError) as error:
        raise DataError(f"split_at: expected a date as 2024-01-31, or a number, got {text!r}") from error


def in_time(rows: Rows, column: str, date_format: str | None) -> Rows:
    """Rows in the order of their moments; equal ones keep the order of the file.

    Args:
        rows: The participant's rows.
        column: As for :func:`moments`.
        date_format: As for :func:`moments`.

    Raises:
        DataError: As :func:`moments`.
    """
    order = np.argsort(moments(rows, column, date_format), kind="stable")
    return replace(rows, frame=rows.frame.iloc[order])


def cut_in_time(times: Moments, fractions: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of training, validation and test rows: earlier before later, rows of one moment together.

    Args:
        times: Moment of each row, ascending, shape ``(N,)``.
        fractions: Shares of training, validation and test.

    Returns:
        Three tensors of positions; a moment that a share ends within belongs to the later part, unless that would take
        all of the training rows.
    """
    ends = []
    for part in (1, 2):
        end = round(len(times) * sum(fractions[:part]))
        first = int(np.searchsorted(times, times[end], side="left")) if 0 < end < len(times) else end
        ends.append(first or end)
    return _parts(len(times), ends)


def cut_at(name: str, times: Moments, starts: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of training, validation and test rows: before, between and from two moments on.

    Args:
        name: Name of the participant, for messages.
        times: Moment of each row, ascending, shape ``(N,)``.
        starts: First moments of the validation and of the test rows.

    Raises:
        DataError: If no row is for training.
    """
    ends = np.searchsorted(times, starts, side="left").tolist()
    if ends[0] == 0:
        raise DataError(
            f"participant {name!r}: none of its {len(times)} rows is from before the first day of split_at, so that it "
            "has none to train on: split at a later day, or leave the participant out"
        )
    return _parts(len(times), ends)


def _parts(count: int, ends: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    first, second, third = torch.arange(count).tensor_split(ends)
    return first, second, third
