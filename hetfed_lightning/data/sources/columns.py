"""From the columns of a table to inputs and targets: features, gaps and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.names import did_you_mean
from hetfed_lightning.data.optional import import_optional
from hetfed_lightning.data.sources.frames import EXTRA, require_columns

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = [
    "Columns",
    "Rows",
    "check_by_name",
    "class_names",
    "read_inputs",
    "read_labels",
    "read_values",
    "select_features",
]

Columns = Sequence[str] | Mapping[str, Sequence[str]] | None
"""Feature columns: for all participants, for each by name, or None for all there are."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """One participant's rows.

    Attributes:
        participant: Its name.
        path: The file they are from.
        frame: The rows.
        target: Name of the column to predict.
    """

    participant: str
    path: Path
    frame: DataFrame
    target: str

    @property
    def targets(self) -> Series[Any]:
        """The column to predict."""
        return self.frame[self.target]

    def __str__(self) -> str:
        """Return where these rows are from, for messages."""
        return f"{self.path}, participant {self.participant!r}"


def select_features(rows: Rows, features: Columns, participant_column: str | None) -> list[str]:
    """Return the names of one participant's feature columns.

    Args:
        rows: The participant's rows.
        features: The columns wanted; None for all but the target and the participants'.
        participant_column: Column of the participants' names, if there is one.

    Returns:
        At least one name, each once.

    Raises:
        DataError: If a column is missing, nameless, listed twice, or is the target or the participants'.
    """
    reserved = {rows.target: "the target", participant_column: "the column of participants"}
    wanted = features.get(rows.participant) if isinstance(features, Mapping) else features
    if wanted is None and features is not None:
        raise DataError(f"{rows}: features are given by participant, but not for this one")
    if wanted is None:
        wanted = [str(name) for name in rows.frame.columns if name not in reserved]
        nameless = [name for name in wanted if name.startswith("Unnamed: ")]
        if nameless:
            raise DataError(
                f"{rows.path}: a column has no name ({nameless[0]!r}), which is often a row number saved by "
                "accident: name it, drop it or list the features"
            )
    require_columns(rows.path, rows.frame, wanted)
    for position, name in enumerate(wanted):
        if name in reserved:
            raise DataError(f"{rows.path}: column {name!r} is {reserved[name]}: take it off the features")
        if name in wanted[:position]:
            raise DataError(f"{rows}: column {name!r} is listed twice among the features")
    if not wanted:
        raise DataError(f"{rows}: has no feature column")
    return list(wanted)


def read_inputs(rows: Rows, features: Sequence[str], missing: Literal["mean", "drop"] | None) -> tuple[Tensor, Rows]:
    """Return one participant's inputs, without gaps, and the rows they belong to.

    Args:
        rows: The participant's rows.
        features: Names of the input columns.
        missing: What to do where a value is missing, as for ``read_table``.

    Returns:
        Inputs, float32 of shape ``(N, columns)``, and the N rows that were kept.

    Raises:
        DataError: If a column holds text, or values are missing or infinite.
    """
    columns = {name: _as_numbers(rows.frame[name]) for name in features}
    text = [name for name, values in columns.items() if values is None]
    if text:
        shown = ", ".join(f"{name!r} ({_first_text(rows.frame[name])})" for name in text)
        raise DataError(
            f"{rows.path}: expected numbers in column {shown}, got text or dates: one-hot encode it, drop "
            "it, or list the features to leave it out"
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
        _refuse_gaps(rows, features, absent, targetless, by_mean=missing == "mean")
        if absent.any():
            values = np.where(absent, np.nanmean(values, axis=0), values)
    inputs = _as_float32(rows, features, values[kept])
    return inputs, Rows(rows.participant, rows.path, rows.frame[kept], rows.target)


def class_names(everyones: Sequence[Rows]) -> list[str] | None:
    """Return the sorted class names of all participants together, or None where labels are numbers.

    Raises:
        DataError: If some participants' labels are text and others' numbers.
    """
    numbers = [rows for rows in everyones if _as_numbers(rows.targets) is not None]
    text = [rows for rows in everyones if _as_numbers(rows.targets) is None]
    if numbers and text:
        raise DataError(
            f"target column {text[0].target!r} holds text in {text[0]}, but numbers in {numbers[0]}: encode both alike"
        )
    return sorted({str(label) for rows in text for label in rows.targets}) if text else None


def read_labels(rows: Rows, classes: Sequence[str] | None) -> Tensor:
    """Return class labels: positions in ``classes``, or where that is None the numbers in the column.

    Returns:
        Shape ``(N,)``, int64.

    Raises:
        DataError: If a number is negative, fractional or infinite.
    """
    if classes is not None:
        positions = {name: position for position, name in enumerate(classes)}
        return torch.tensor([positions[str(label)] for label in rows.targets], dtype=torch.int64)
    numbers = _finite_targets(rows)
    wrong = (numbers < 0) | (numbers != np.floor(numbers))
    if wrong.any():
        raise DataError(
            f"{rows}: expected class labels in column {rows.target!r} that are whole numbers of 0 or more, "
            f"got {numbers[wrong][0]:g}: encode them, or set kind='value' for a regression"
        )
    return torch.from_numpy(numbers.astype(np.int64))


def read_values(rows: Rows) -> Tensor:
    """Return the targets of a regression.

    Returns:
        Shape ``(N,)``, float32.

    Raises:
        DataError: If the column holds text or infinite values.
    """
    return _as_float32(rows, [rows.target], _finite_targets(rows)[:, None])[:, 0]


def check_by_name(features: Columns, participants: Sequence[str]) -> None:
    """Refuse features given for a participant who is not in the data, or given as one text."""
    if isinstance(features, str):
        raise DataError(f"expected a list of feature columns, got the text {features!r}")
    for name in features if isinstance(features, Mapping) else ():
        if name not in participants:
            hint = did_you_mean(name, participants)
            raise DataError(f"features are given for participant {name!r}, who is not in the data{hint}")


def _as_numbers(column: Series[Any]) -> Floats | None:
    """Return numbers or booleans as float64, missing ones as NaN; None where there is anything else."""
    types = import_optional("pandas", EXTRA).api.types
    numeric = types.is_numeric_dtype(column) and not types.is_complex_dtype(column)
    # A column of booleans with gaps is read as objects.
    if numeric or (column.dtype == object and all(isinstance(value, bool) for value in column.dropna())):
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
    return None


def _finite_targets(rows: Rows) -> Floats:
    numbers = _as_numbers(rows.targets)
    if numbers is None:
        found = rows.targets.iloc[0]
        raise DataError(f"{rows}: expected numbers in target column {rows.target!r}, got text such as {found!r}")
    _refuse_infinite(rows, [rows.target], numbers[:, None])
    return numbers


def _refuse_gaps(
    rows: Rows,
    features: Sequence[str],
    absent: NDArray[np.bool_],
    targetless: NDArray[np.bool_],
    *,
    by_mean: bool,
) -> None:
    if targetless.any():
        raise DataError(
            f"{rows}: target column {rows.target!r} has {int(targetless.sum())} missing value(s) in "
            f"{len(absent)} rows (an empty cell, NA or None): fill them in, or set missing='drop'"
        )
    if absent.any() and not by_mean:
        raise DataError(
            f"{rows}: missing values, of {len(absent)} rows in column {_counted(features, absent)}: impute "
            "or drop them, set missing='mean' or 'drop', or leave the column out of the features"
        )
    empty = [name for name, column in zip(features, absent.T, strict=True) if column.all()]
    if empty:
        shown = ", ".join(map(repr, empty))
        raise DataError(f"{rows}: column {shown} has no value to take the mean of: leave it out of the features")


def _refuse_infinite(rows: Rows, names: Sequence[str], values: NDArray[np.floating[Any]]) -> None:
    infinite = np.isinf(values)
    if infinite.any():
        raise DataError(
            f"{rows}: values that are infinite, or too large for float32, in column "
            f"{_counted(names, infinite)}: drop or clip them"
        )


def _counted(names: Sequence[str], flagged: NDArray[np.bool_]) -> str:
    counts = zip(names, flagged.sum(axis=0).tolist(), strict=True)
    return ", ".join(f"{name!r} ({count})" for name, count in counts if count)


def _as_float32(rows: Rows, names: Sequence[str], values: Floats) -> Tensor:
    with np.errstate(over="ignore"):
        narrowed = values.astype(np.float32)
    _refuse_infinite(rows, names, narrowed)
    return torch.from_numpy(narrowed)


def _first_text(column: Any) -> str:
    """The first value of a column that is no number, and its row, counted from 1 below the header."""
    for row, value in column.dropna().items():
        try:
            float(value)
        except (TypeError, ValueError):
            return f"{value!r} in row {row + 1}"
    return f"as {next(iter(column.dropna()), '')!r}"
