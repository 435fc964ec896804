"""Tables, CSV or parquet: one with a column of participants, or one file per participant."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.data.names import checked_classes, refuse_twin_names
from hetfed_lightning.data.partitions.natural import natural_partition
from hetfed_lightning.data.sources.columns import (
    Columns,
    Rows,
    check_by_name,
    class_names,
    read_inputs,
    read_labels,
    read_values,
    select_features,
)
from hetfed_lightning.data.sources.frames import read_frame, require_columns

__all__ = ["Tables", "read_table", "read_tables", "table_files"]

_TABLE_NAMES = ("*.csv", "*.csv.gz", "*.parquet", "*.pq")


class Tables(dict[str, Examples]):
    """Examples of each participant, by name, with what the columns meant.

    Attributes:
        features: Names of the input columns of each participant, in order.
        classes: Names of the classes, in order, where the target was text; None where it was numbers.
    """

    def __init__(
        self,
        examples: Mapping[str, Examples],
        features: Mapping[str, Sequence[str]],
        classes: Sequence[str] | None,
    ) -> None:
        super().__init__(examples)
        self.features = {name: tuple(columns) for name, columns in features.items()}
        self.classes = None if classes is None else tuple(classes)


def read_table(
    path: str | os.PathLike[str],
    target: str,
    participant_column: str,
    features: Columns = None,
    kind: Literal["class", "value"] = "class",
    missing: Literal["mean", "drop"] | None = None,
    separator: str = ",",
    classes: Sequence[str] | None = None,
) -> Tables:
    """Return the examples of each participant of one table.

    Args:
        path: A CSV file in UTF-8 with a header (``.gz`` is decompressed), or a ``.parquet`` file.
        target: Column to predict.
        participant_column: Column of the participants' names, taken as text.
        features: Input columns, numbers or booleans; of a mapping, those of each participant. None takes all
            columns but the target and the participants'.
        kind: ``"class"`` for class labels: whole numbers of 0 or more are kept, text becomes the position in
            the sorted names of all classes of all participants. ``"value"`` for a regression.
        missing: What to do where an input is missing: ``"drop"`` the row (one without a target too), or fill
            in the ``"mean"`` of the participant's own column. Each participant's mean is its own, so nothing
            travels; it is taken over all its rows, those that are later split off for a test included. None
            refuses.
        separator: Between columns of a CSV file.
        classes: Names of all classes, in order, where labels are text; None for those that are there, sorted.

    Returns:
        Examples under the name of each participant, in alphabetical order; inputs float32 of shape
        ``(N, columns)``, targets of shape ``(N,)``, int64 or (of ``"value"``) float32.

    Raises:
        DataError: If the file is missing, empty, unreadable or not UTF-8; a column is missing, is text or
            holds missing or infinite values; a label is negative, fractional or not in ``classes``; two
            participants differ in case only.
        ImportError: If pandas (or pyarrow, for parquet) is not installed.
    """
    path = Path(path)
    frame = read_frame(path, separator, as_text=participant_column)
    require_columns(path, frame, [participant_column, target])
    column = frame[participant_column]
    names = ["" if gap else str(name).strip() for name, gap in zip(column, column.isna(), strict=True)]
    try:
        positions = natural_partition(names)
    except DataError as error:
        raise DataError(f"{path}, column {participant_column!r}: {error}") from error
    rows = [Rows(name, path, frame.iloc[index.numpy()], target) for name, index in positions.items()]
    return _as_tables(rows, features, kind, missing, participant_column, classes=classes)


def read_tables(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]],
    target: str,
    features: Columns = None,
    kind: Literal["class", "value"] = "class",
    missing: Literal["mean", "drop"] | None = None,
    separator: str = ",",
    classes: Sequence[str] | None = None,
) -> Tables:
    """Return the examples of each participant, one file each. Files may differ in their columns.

    Args:
        paths: A folder, all of whose CSV and parquet files are taken; a list of files; or files by
            participant's name. Without a name, a file's stem is its participant's.
        target: Column to predict, in every file.
        features: As for :func:`read_table`; None takes all columns of each file but the target.
        kind: As for :func:`read_table`.
        missing: As for :func:`read_table`.
        separator: As for :func:`read_table`.
        classes: As for :func:`read_table`.

    Returns:
        Examples under the name of each participant, in alphabetical order, or in the order of a mapping.

    Raises:
        DataError: As for :func:`read_table`; if there is no file, or two files have the same stem.
        ImportError: If pandas (or pyarrow, for parquet) is not installed.
    """
    everyones = []
    for name, path in table_files(paths).items():
        frame = read_frame(path, separator)
        require_columns(path, frame, [target])
        everyones.append(Rows(name, path, frame, target))
    return _as_tables(everyones, features, kind, missing, classes=classes)


def _as_tables(
    everyones: Sequence[Rows],
    features: Columns,
    kind: Literal["class", "value"],
    missing: Literal["mean", "drop"] | None,
    participant_column: str | None = None,
    *,
    classes: Sequence[str] | None = None,
) -> Tables:
    if kind not in {"class", "value"}:
        raise DataError(f"expected kind 'class' or 'value', got {kind!r}")
    if missing not in {None, "mean", "drop"}:
        raise DataError(f"expected missing to be 'mean', 'drop' or None, got {missing!r}")
    check_by_name(features, [rows.participant for rows in everyones])
    selected = {rows.participant: select_features(rows, features, participant_column) for rows in everyones}
    read = [read_inputs(rows, selected[rows.participant], missing) for rows in everyones]
    there = class_names([rows for _, rows in read]) if kind == "class" else None
    named = None if there is None else there if classes is None else checked_classes(classes, there, "the target")
    examples = {
        rows.participant: Examples(inputs, read_values(rows) if kind == "value" else read_labels(rows, named))
        for inputs, rows in read
    }
    return Tables(examples, selected, named)


def table_files(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]],
) -> dict[str, Path]:
    """Return the file of each participant.

    Args:
        paths: As for :func:`read_tables`.

    Raises:
        DataError: If there is no file, or two files have the same stem.
    """
    if isinstance(paths, Mapping):
        where, named = "the files given", [(name, Path(path)) for name, path in paths.items()]
    elif isinstance(paths, str | os.PathLike) and not Path(paths).is_dir():
        raise DataError(f"{paths}: expected a folder with one table per participant, or a list of files")
    elif isinstance(paths, str | os.PathLike):
        where = str(paths)
        files = sorted({file for pattern in _TABLE_NAMES for file in Path(paths).glob(pattern) if file.is_file()})
        named = [(_stem(file), file) for file in files if not file.name.startswith(".")]
    else:
        where, named = "the files given", sorted((_stem(Path(path)), Path(path)) for path in paths)
    if not named:
        raise DataError(f"{where}: expected at least one CSV or parquet file, got none")
    refuse_twin_names((name for name, _ in named), "participant", where)
    return dict(named)


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).stem
