"""One table file as a pandas frame, or a sentence on why it is none."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.names import did_you_mean
from hetfed_lightning.data.optional import import_optional

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["EXTRA", "PARQUET", "read_frame", "require_columns"]

EXTRA = "hetfed-lightning[tables]"
PARQUET = frozenset({".parquet", ".pq"})


def read_frame(path: Path, separator: str = ",", as_text: str | None = None) -> DataFrame:
    """Return the rows of a CSV or parquet file.

    Args:
        path: A CSV file in UTF-8 with a header, or a file whose suffix says parquet.
        separator: Between the columns of a CSV file.
        as_text: A column of a CSV file to read as text and without gaps, so that 007, 1e3 and NA stay as
            they are.

    Returns:
        A frame with at least one row, and no column name twice.

    Raises:
        DataError: If the file is missing, empty, damaged or not UTF-8, or a row is longer than the header.
        ImportError: If pandas (or pyarrow, for parquet) is not installed.
    """
    pandas = import_optional("pandas", EXTRA)
    if not path.is_file():  # also keeps pandas from fetching what looks like an address
        what = "is a folder, expected one table" if path.is_dir() else f"no such table file (looked in {Path.cwd()})"
        raise DataError(f"{path}: {what}")
    try:
        if path.suffix.lower() in PARQUET:
            frame, header = _read_parquet(pandas, path)
        else:
            frame, header = _read_csv(pandas, path, separator, as_text)
    except pandas.errors.EmptyDataError as error:
        raise DataError(f"{path}: the file is empty, expected a header and rows") from error
    except UnicodeDecodeError as error:
        byte = f"0x{error.object[error.start]:02x}"
        raise DataError(f"{path}: not UTF-8 (byte {byte}, {error.reason}): save it as UTF-8") from error
    except (ValueError, OSError, EOFError, zlib.error, pandas.errors.ParserWarning) as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from error
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise DataError(f"{path}: column {', '.join(map(repr, twice))} occurs twice in the header: rename or drop one")
    if len(frame) == 0:
        raise DataError(f"{path}: the table has a header but no rows")
    return frame


def require_columns(path: Path, frame: DataFrame, wanted: Sequence[str]) -> None:
    """Refuse a frame that lacks a column, suggesting the one that was probably meant."""
    present = [str(name) for name in frame.columns]
    for name in wanted:
        if name not in present:
            hint = did_you_mean(name, present)
            if len(present) == 1:
                hint = f"; its only column is {present[0]!r}: is the separator another?"
            raise DataError(f"{path}: has no column {name!r}{hint}")


def _read_csv(pandas: Any, path: Path, separator: str, as_text: str | None) -> tuple[DataFrame, list[str]]:
    # The header is read apart, since pandas makes a second "age" into "age.1" and goes on.
    first = pandas.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False)
    with warnings.catch_warnings():
        # Rows longer than the header would be cut.
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        frame: DataFrame = pandas.read_csv(path, sep=separator, index_col=False, low_memory=False)
        if as_text in frame.columns:
            # Apart: neither a dtype nor a converter keeps pandas from taking "NA" in one column for a gap.
            text = {"usecols": [as_text], "dtype": str, "keep_default_na": False}
            frame[as_text] = pandas.read_csv(path, sep=separator, index_col=False, **text)[as_text]
    return frame, first.iloc[0].tolist()


def _read_parquet(pandas: Any, path: Path) -> tuple[DataFrame, list[str]]:
    try:
        frame: DataFrame = pandas.read_parquet(path)
    except ImportError as error:
        raise ImportError(f"{path}: reading parquet needs pyarrow ({error}): pip install pyarrow") from error
    return frame, [str(name) for name in frame.columns]
