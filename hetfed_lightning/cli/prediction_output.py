"""Predictions of several participants as one file, CSV or parquet by its ending: a row for each example."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.data.optional import import_optional

__all__ = ["check_output", "write_table"]

CSV = frozenset({".csv"})
PARQUET = frozenset({".parquet", ".pq"})


def check_output(path: Path) -> None:
    """Refuse a file that could not be written in the end, before anything is computed.

    Args:
        path: The file.

    Raises:
        ConfigError: If its ending is neither CSV's nor parquet's, or it is a folder.
        ImportError: If parquet is asked for and pandas or pyarrow is not installed.
    """
    if path.is_dir():
        raise ConfigError(f"--output: {path} is a folder, expected a file, such as {path / 'predictions.csv'}.")
    if path.suffix.lower() not in CSV | PARQUET:
        raise ConfigError(f"--output: expected a file that ends in .csv, .parquet or .pq, got {path}.")
    if path.suffix.lower() in PARQUET:
        import_optional("pandas", "hetfed-lightning[tables]")
        import_optional("pyarrow", "pyarrow")


def write_table(columns: Mapping[str, NDArray[Any]], path: Path) -> Path:
    """The file that was written; folders are made. None is an empty cell.

    Args:
        columns: Columns by name, of one length.
        path: CSV, or parquet, in which columns of texts and numbers are texts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in PARQUET:
        pandas = import_optional("pandas", "hetfed-lightning[tables]")
        pandas.DataFrame({name: _one_type(column) for name, column in columns.items()}).to_parquet(path, index=False)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def _one_type(column: NDArray[Any]) -> NDArray[Any]:
    kinds = {type(value) for value in column if value is not None} if column.dtype == object else set()
    if len(kinds) < 2:
        return column
    return np.array([None if value is None else str(value) for value in column], dtype=object)
