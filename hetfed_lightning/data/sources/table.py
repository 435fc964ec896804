"""Tables, CSV or parquet: one with a column of participants, or one file per participant."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.data.name_checks import refuse_twin_names
from hetfed_lightning.data.partitions.natural import natural_partition
from hetfed_lightning.data.source_rows import SourceRows
from hetfed_lightning.data.sources.classes import agreed_classes, read_labels, tell_missing_classes
from hetfed_lightning.data.sources.columns import (
    Columns,
    Rows,
    check_by_name,
    read_inputs,
    read_values,
    select_features,
)
from hetfed_lightning.data.sources.encodings import Encodings, encoded, with_parts
from hetfed_lightning.data.sources.frames import read_frame, require_columns
from hetfed_lightning.data.sources.matching import agreed_columns, tell_extra_columns
from hetfed_lightning.data.sources.moments import in_time, moments
from hetfed_lightning.data.sources.queries import database_name, read_query
from hetfed_lightning.paths import with_home

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Missing", "Tables", "read_queries", "read_table", "read_tables", "table_files"]

Missing = Literal["keep", "drop"] | None
"""Treatment of missing inputs: ``"keep"`` as NaN, ``"drop"`` the row, or None to refuse them."""

NO_ENCODINGS = Encodings()
"""Encodings of a table of numbers."""

_TABLE_NAMES = ("*.csv", "*.csv.gz", "*.parquet", "*.pq")


class Tables(dict[str, Examples]):
    """Examples of each participant, by name, with the names of columns and classes.

    Attributes:
        features: Names of the input columns of each participant, in order.
        classes: Names of the classes, in order, where there is a vocabulary: the target was text, or they were given.
            None elsewhere.
        vocabularies: Categories of each column that holds some, in order.
        times: Moment of each row of each participant, ascending, where rows are in the order of a column of dates.
    """

    def __init__(
        self,
        examples: Mapping[str, Examples],
        features: Mapping[str, Sequence[str]],
        classes: Sequence[str] | None,
        vocabularies: Mapping[str, Sequence[str]] = MappingProxyType({}),
        times: Mapping[str, NDArray[np.float64]] = MappingProxyType({}),
    ) -> None:
        super().__init__(examples)
        self.features = {name: tuple(columns) for name, columns in features.items()}
        self.classes = None if classes is None else tuple(classes)
        self.times = dict(times)
        self.vocabularies = {column: tuple(values) for column, values in vocabularies.items()}


def read_table(
    path: str | os.PathLike[str],
    target: str,
    participant_column: str,
    features: Columns = None,
    kind: Literal["class", "value"] = "class",
    missing: Missing = None,
    separator: str = ",",
    classes: Sequence[str] | None = None,
    *,
    decimal: str = ".",
    max_unpacked: int | None = None,
    encodings: Encodings = NO_ENCODINGS,
    time_column: str | None = None,
    rename: Mapping[str, str] = MappingProxyType({}),
) -> Tables:
    """Examples of each participant of one table, by name.

    Args:
        path: A CSV file in UTF-8 with a header (``.gz`` is decompressed), or a ``.parquet`` file.
        target: Column to predict.
        participant_column: Column of the participants' names, taken as text.
        features: Input columns, numbers or booleans; of a mapping, those of each participant. None takes all columns
            but the target, the participants' and those that number or name the rows
            (:func:`~hetfed_lightning.data.sources.matching.agreed_columns`).
        kind: ``"class"`` for class labels: whole numbers of 0 or more are kept, text becomes the position in the sorted
            names of all classes of all participants. ``"value"`` for a regression.
        missing: Treatment of missing inputs: ``"drop"`` drops the row (one without a target too), ``"keep"`` keeps them
            as NaN, to be filled with values learned on training rows alone. None refuses.
        separator: Mark between the columns of a CSV file.
        classes: Names of all classes, in order, as the file writes them, numbers too; None for those that are there.
        decimal: Mark before the decimals of a CSV file, ``"."`` or ``","``.
        max_unpacked: Bytes that a compressed file may unpack to; None for 256 MiB, or a hundred times the file's size.
        encodings: Columns that are no numbers, and what is made of them.
        time_column: Column of dates or numbers by which each participant's rows are ordered; no feature unless listed.
        rename: New names of participants by those in the table; several may become one.

    Returns:
        Examples under the name of each participant, in alphabetical order; inputs float32 of shape ``(N, columns)``,
        targets of shape ``(N,)``, int64 or (of ``"value"``) float32.

    Raises:
        DataError: If the file is missing, empty, unreadable or not UTF-8; a column is missing, is text or holds missing
            or infinite values; a label is negative, fractional or not in ``classes``; two participants, or two classes,
            differ in case only.
        ImportError: If pandas (or pyarrow, for parquet) is not installed.
    """
    path = with_home(path)
    texts = [participant_column, *encodings.texts]
    frame = read_frame(path, separator, as_text=texts, decimal=decimal, max_unpacked=max_unpacked)
    rows = _rows_by_participant(path, frame, target, participant_column, rename)
    return _as_tables(
        rows,
        features,
        kind,
        missing,
        participant_column,
        classes=classes,
        encodings=encodings,
        time_column=time_column,
    )


def read_tables(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]],
    target: str,
    features: Columns = None,
    kind: Literal["class", "value"] = "class",
    missing: Missing = None,
    separator: str = ",",
    classes: Sequence[str] | None = None,
    *,
    decimal: str = ".",
    max_unpacked: int | None = None,
    encodings: Encodings = NO_ENCODINGS,
    time_column: str | None = None,
    rename: Mapping[str, str] = MappingProxyType({}),
) -> Tables:
    """Examples of each participant, by name, of one file each; columns are matched by name.

    Args:
        paths: A folder, all of whose CSV and parquet files are taken; a list of files; or files by participant's name.
            Without a name, a file's stem is its participant's.
        target: Column to predict, in every file.
        features: As for :func:`read_table`; None takes the columns that all files have, in the order of the first, and
            logs the others. A participant with columns of its own has them listed under its name.
        kind: As for :func:`read_table`.
        missing: As for :func:`read_table`.
        separator: As for :func:`read_table`.
        classes: As for :func:`read_table`.
        decimal: As for :func:`read_table`.
        max_unpacked: As for :func:`read_table`.
        encodings: As for :func:`read_table`.
        time_column: As for :func:`read_table`.
        rename: New names of participants by those of their files.

    Returns:
        Examples under the name of each participant, in alphabetical order, or in the order of a mapping.

    Raises:
        DataError: As for :func:`read_table`; if there is no file, two files have the same stem, or a file lacks a
            column that most of them have.
        ImportError: If pandas (or pyarrow, for parquet) is not installed.
    """
    everyones = []
    for name, path in table_files(paths, rename).items():
        frame = read_frame(path, separator, as_text=encodings.texts, decimal=decimal, max_unpacked=max_unpacked)
        require_columns(path, frame, [target])
        everyones.append(Rows(name, path, frame, target))
    return _as_tables(everyones, features, kind, missing, classes=classes, encodings=encodings, time_column=time_column)


def read_queries(
    databases: str | Mapping[str, str],
    query: str,
    target: str,
    participant_column: str | None = None,
    features: Columns = None,
    kind: Literal["class", "value"] = "class",
    missing: Missing = None,
    classes: Sequence[str] | None = None,
    *,
    encodings: Encodings = NO_ENCODINGS,
    time_column: str | None = None,
    rename: Mapping[str, str] = MappingProxyType({}),
) -> Tables:
    """Examples of each participant, by name, of the rows that an SQL query returns.

    Args:
        databases: Address of a database (:func:`~hetfed_lightning.data.sources.queries.read_query`), or those of the
            participants by name.
        query: One statement that begins with SELECT or WITH, for every database.
        target: Column to predict.
        participant_column: Column of the participants' names; None where each has a database.
        features: As for :func:`read_table`.
        kind: As for :func:`read_table`.
        missing: As for :func:`read_table`.
        classes: As for :func:`read_table`.
        encodings: As for :func:`read_table`.
        time_column: As for :func:`read_table`.
        rename: As for :func:`read_table`.

    Raises:
        DataError: As for :func:`read_table`; if a query fails or returns no row; if there is neither a
            ``participant_column`` nor a database by name.
        ImportError: If pandas, SQLAlchemy or a database's driver is not installed.
    """
    if isinstance(databases, str) == (participant_column is None):
        raise DataError(
            "database: expected one database and the participant_column of its rows, or a database for each "
            "participant by name and no participant_column"
        )
    everyones = []
    named = {"": databases} if isinstance(databases, str) else databases
    for name, address in named.items():
        path, frame = Path(database_name(address)), read_query(address, query)
        require_columns(path, frame, [target])
        if participant_column is None:
            everyones.append(Rows(rename.get(name, name), path, frame, target))
        else:
            everyones += _rows_by_participant(path, frame, target, participant_column, rename)
    refuse_twin_names((rows.participant for rows in everyones), "participant", "database")
    return _as_tables(
        everyones, features, kind, missing, participant_column, classes=classes, encodings=encodings,
        time_column=time_column,
    )  # fmt: skip


def _rows_by_participant(
    path: Path, frame: DataFrame, target: str, participant_column: str, rename: Mapping[str, str]
) -> list[Rows]:
    require_columns(path, frame, [participant_column, target])
    column = frame[participant_column]
    names = ["" if gap else str(name).strip() for name, gap in zip(column, column.isna(), strict=True)]
    names = [rename.get(name, name) for name in names]
    try:
        positions = natural_partition(names)
    except DataError as error:
        raise DataError(f"{path}, column {participant_column!r}: {error}") from error
    return [Rows(name, path, frame.iloc[index.numpy()], target) for name, index in positions.items()]


def _as_tables(
    everyones: Sequence[Rows],
    features: Columns,
    kind: Literal["class", "value"],
    missing: Missing,
    participant_column: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    encodings: Encodings,
    time_column: str | None,
) -> Tables:
    if kind not in {"class", "value"}:
        raise DataError(f"expected kind 'class' or 'value', got {kind!r}")
    if missing == "mean":  # type: ignore[comparison-overlap]  # earlier versions allowed it
        raise DataError(
            "missing='mean': a reader does not know which rows are for training, and a mean of all would know the test "
            "rows: use TableDataModule(missing='mean'), or 'keep' the gaps and fill them after the split"
        )
    if missing not in {None, "keep", "drop"}:
        raise DataError(f"expected missing to be 'mean', 'keep', 'drop' or None, got {missing!r}")
    check_by_name(features, [rows.participant for rows in everyones])
    if time_column is not None:
        everyones = [in_time(rows, time_column, encodings.date_format) for rows in everyones]
    agreed = []
    if features is None:
        aside = [] if time_column is None or time_column in encodings.columns else [time_column]
        agreed = agreed_columns(everyones, participant_column, meant=encodings.columns, aside=aside)
    if features is not None:
        _tell_ignored(everyones, features, participant_column, encodings)
    made = encoded(everyones, encodings, features)
    features, agreed = with_parts(features, made.parts), list(with_parts(agreed, made.parts) or ())
    everyones = made.everyones
    selected = {rows.participant: select_features(rows, features, participant_column, agreed) for rows in everyones}
    read = [read_inputs(rows, selected[rows.participant], missing) for rows in everyones]
    named = agreed_classes([rows for _, rows in read], classes) if kind == "class" else None
    targets = {rows.participant: read_values(rows) if kind == "value" else read_labels(rows, named) for _, rows in read}
    if kind == "class":
        tell_missing_classes(targets, named)
    examples = {
        rows.participant: Examples(
            inputs,
            targets[rows.participant],
            missing=missing == "keep",
            rows=SourceRows("row", rows.frame.index.to_numpy() + 1),
        )
        for inputs, rows in read
    }
    times = {}
    if time_column is not None:
        times = {rows.participant: moments(rows, time_column, encodings.date_format) for _, rows in read}
    return Tables(examples, selected, named, made.vocabularies, times)


def _tell_ignored(
    everyones: Sequence[Rows], features: Columns, participant_column: str | None, encodings: Encodings
) -> None:
    for rows in {rows.path: rows for rows in everyones}.values():
        own = features.get(rows.participant, ()) if isinstance(features, Mapping) else features or ()
        tell_extra_columns(rows, [*(name.strip() for name in own), *encodings.columns], participant_column)


def table_files(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]],
    rename: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Path]:
    """File of each participant, by name.

    Args:
        paths: As for :func:`read_tables`.
        rename: As for :func:`read_tables`.

    Raises:
        DataError: If there is no file, or two files have the same stem.
    """
    if isinstance(paths, Mapping):
        where, named = "the files given", [(name, with_home(path)) for name, path in paths.items()]
    elif isinstance(paths, str | os.PathLike):
        folder = with_home(paths)
        if folder.is_file():
            raise DataError(
                f"{paths}: expected a folder with one table per participant, or a list of files; of one table with "
                "everybody's rows, name the participant_column"
            )
        if not folder.is_dir():
            raise DataError(f"{paths}: expected a folder with one table per participant, and there is no such folder")
        where = str(folder)
        files = sorted({file for pattern in _TABLE_NAMES for file in folder.glob(pattern) if file.is_file()})
        named = [(_stem(file), file) for file in files if not file.name.startswith(".")]
    else:
        where, named = "the files given", sorted((_stem(path), path) for path in map(with_home, paths))
    if not named:
        raise DataError(f"{where}: expected at least one CSV or parquet file, got none")
    named = [(rename.get(name, name), file) for name, file in named]
    refuse_twin_names((name for name, _ in named), "participant", where)
    return dict(named)


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).stem
