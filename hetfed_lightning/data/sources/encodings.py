"""Columns that are no numbers, made into numbers before inputs are read.

Each becomes others with names of their own, which say what they hold (``"smoker=never"``): features,
schemas, checkpoints and comparisons between sites need to know nothing of an encoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.data.sources.categories import (
    Categories,
    agreed_categories,
    category_columns,
    declared_categories,
    one_hot,
)
from hetfed_lightning.data.sources.columns import Columns, Rows
from hetfed_lightning.data.sources.dates import Dates, date_columns, date_numbers, declared_dates
from hetfed_lightning.data.sources.frames import imported_pandas
from hetfed_lightning.data.sources.truths import Truths, declared_truths, truth_values

__all__ = ["Encoded", "Encodings", "encoded", "with_parts"]


@dataclass(frozen=True)
class Encodings:
    """Columns of a table that are no numbers, and what is made of them.

    Attributes:
        categories: Vocabulary of each column of categories; None where it is to be agreed.
        booleans: Value of each word of each column of yes and no.
        dates: What is made of each column of dates.
        date_format: Form of all dates; None for ISO 8601.
    """

    categories: Mapping[str, Sequence[str] | None] = field(default_factory=dict)
    booleans: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    dates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    date_format: str | None = None

    @classmethod
    def of(
        cls,
        categories: Categories = None,
        booleans: Truths = None,
        dates: Dates | None = None,
        date_format: str | None = None,
    ) -> Encodings:
        """Encodings as a user gave them, checked.

        Args:
            categories: Columns of categories.
            booleans: Columns of yes and no.
            dates: Columns of dates and what is made of each.
            date_format: Form of all dates, as ``"%d.%m.%Y"``; None for ISO 8601.

        Raises:
            DataError: If one cannot be meant, or a column has two encodings.
        """
        made = cls(declared_categories(categories), declared_truths(booleans), declared_dates(dates), date_format)
        twice = [column for column in made.columns if made.columns.count(column) > 1]
        if twice:
            raise DataError(f"column {twice[0]!r} is under two of categories, booleans and dates: keep one")
        return made

    @property
    def columns(self) -> list[str]:
        """Names of all columns that are encoded, each once."""
        return [*self.categories, *self.booleans, *self.dates]

    def wanted_by(self, features: Sequence[str]) -> Encodings:
        """Encodings of which something is among the features, and the dates that others count from.

        Args:
            features: Names of input columns.
        """
        return replace(
            self,
            categories={name: one for name, one in self.categories.items() if _is_wanted(name, features)},
            booleans={name: one for name, one in self.booleans.items() if name in features},
            dates={name: parts for name, parts in self.dates.items() if _is_wanted(name, features)},
        )

    @property
    def texts(self) -> list[str]:
        """Names of the columns whose cells are read as they are written."""
        return list(self.categories)


@dataclass(frozen=True)
class Encoded:
    """Rows with the columns that encodings made, beside those that were there.

    Attributes:
        everyones: Each participant's rows.
        parts: Names of the columns made of each encoded one, in order.
        vocabularies: Vocabulary of each column of categories.
    """

    everyones: list[Rows]
    parts: Mapping[str, list[str]]
    vocabularies: Mapping[str, list[str]]


def encoded(everyones: Sequence[Rows], encodings: Encodings, features: Columns) -> Encoded:
    """Rows of all participants with the columns that encodings make.

    Args:
        everyones: Each participant's rows.
        encodings: What is made of which columns.
        features: Input columns wanted; others are not encoded.

    Raises:
        DataError: If nobody has a column, a value cannot be read, or a made column has the name of another.
    """
    wanted = _wanted(features)
    _refuse_unknown(everyones, encodings)
    made: list[dict[str, NDArray[Any]]] = [{} for _ in everyones]
    parts: dict[str, list[str]] = {}
    vocabularies: dict[str, list[str]] = {}
    for column, declared in encodings.categories.items():
        if _is_wanted(column, wanted):
            having = _having(everyones, column)
            vocabulary = vocabularies[column] = agreed_categories(having, column, declared, wanted or ())
            parts[column] = category_columns(column, vocabulary)
            for rows, own in zip(everyones, made, strict=True):
                if column in rows.frame.columns:
                    own.update(one_hot(rows, column, vocabulary))
    for column, chosen in encodings.dates.items():
        if _is_wanted(column, wanted):
            parts[column] = date_columns(column, chosen)
            for rows, own in zip(everyones, made, strict=True):
                if chosen and column in rows.frame.columns:
                    own.update(date_numbers(rows, column, chosen, encodings.date_format))
    words = {column: one for column, one in encodings.booleans.items() if _is_wanted(column, wanted)}
    joined = [_with_truths(_joined(rows, own), words) for rows, own in zip(everyones, made, strict=True)]
    return Encoded(joined, parts, vocabularies)


def with_parts(features: Columns, parts: Mapping[str, Sequence[str]]) -> Columns:
    """Feature columns in which each encoded column stands for those made of it.

    Args:
        features: Feature columns as a user gave them, or None.
        parts: Names of the columns made of each encoded one.
    """
    if features is None:
        return None
    if isinstance(features, Mapping):
        return {name: _expanded(own, parts) for name, own in features.items()}
    return _expanded(features, parts)


def _expanded(features: Sequence[str], parts: Mapping[str, Sequence[str]]) -> list[str]:
    return [part for name in features for part in parts.get(name.strip(), [name])]


def _wanted(features: Columns) -> list[str] | None:
    if features is None:
        return None
    lists = features.values() if isinstance(features, Mapping) else [features]
    return [name.strip() for own in lists for name in own]


def _is_wanted(column: str, wanted: Sequence[str] | None) -> bool:
    return wanted is None or any(name == column or name.startswith((f"{column}=", f"{column} ")) for name in wanted)


def _having(everyones: Sequence[Rows], column: str) -> list[Rows]:
    return [rows for rows in everyones if column in rows.frame.columns]


def _refuse_unknown(everyones: Sequence[Rows], encodings: Encodings) -> None:
    for column in encodings.columns:
        if not _having(everyones, column):
            hint = did_you_mean(column, [str(name) for name in everyones[0].frame.columns])
            raise DataError(f"{everyones[0].path}: has no column {column!r}, which is to be encoded{hint}")
        if column == everyones[0].target:
            raise DataError(
                f"column {column!r} is the target and to be encoded: text in a target needs no encoding, its classes "
                "are named by the text; take it out of the encodings"
            )


def _with_truths(rows: Rows, words: Mapping[str, Mapping[str, float]]) -> Rows:
    own = {column: truth_values(rows, column, one) for column, one in words.items() if column in rows.frame.columns}
    return replace(rows, frame=rows.frame.assign(**own)) if own else rows


def _joined(rows: Rows, made: Mapping[str, NDArray[Any]]) -> Rows:
    if not made:
        return rows
    taken = [name for name in made if name in rows.frame.columns]
    if taken:
        raise DataError(f"{rows.path}: has a column {taken[0]!r}, as an encoded column is called: rename it")
    pandas = imported_pandas()
    beside = pandas.DataFrame({name: np.asarray(values) for name, values in made.items()}, index=rows.frame.index)
    return replace(rows, frame=pandas.concat([rows.frame, beside], axis=1))
