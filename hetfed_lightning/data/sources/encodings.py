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
from hetfed_lightning.data.optional import import_optional
from hetfed_lightning.data.sources.categories import (
    Categories,
    agreed_categories,
    category_columns,
    declared_categories,
    one_hot,
)
from hetfed_lightning.data.sources.columns import Columns, Rows
from hetfed_lightning.data.sources.frames import EXTRA

__all__ = ["Encoded", "Encodings", "encoded", "with_parts"]


@dataclass(frozen=True)
class Encodings:
    """Columns of a table that are no numbers, and what is made of them.

    Attributes:
        categories: Vocabulary of each column of categories; None where it is to be agreed.
    """

    categories: Mapping[str, Sequence[str] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, categories: Categories = None) -> Encodings:
        """Encodings as a user gave them, checked.

        Args:
            categories: Columns of categories.

        Raises:
            DataError: If one cannot be meant.
        """
        return cls(declared_categories(categories))

    @property
    def columns(self) -> list[str]:
        """Names of all columns that are encoded, each once."""
        return list(self.categories)

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
                if rows in having:
                    own.update(one_hot(rows, column, vocabulary))
    return Encoded([_joined(rows, own) for rows, own in zip(everyones, made, strict=True)], parts, vocabularies)


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


def _joined(rows: Rows, made: Mapping[str, NDArray[Any]]) -> Rows:
    if not made:
        return rows
    taken = [name for name in made if name in rows.frame.columns]
    if taken:
        raise DataError(f"{rows.path}: has a column {taken[0]!r}, as an encoded column is called: rename it")
    pandas = import_optional("pandas", EXTRA)
    beside = pandas.DataFrame({name: np.asarray(values) for name, values in made.items()}, index=rows.frame.index)
    return replace(rows, frame=pandas.concat([rows.frame, beside], axis=1))
