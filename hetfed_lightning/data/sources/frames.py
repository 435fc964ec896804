"""Table files as pandas frames, with errors that say why a file is none."""

from __future__ import annotations

import lzma
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.data.optional import import_optional
from hetfed_lightning.data.unpacking import check_unpacked, unpacked

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["EXTRA", "NAMELESS", "PARQUET", "imported_pandas", "read_frame", "require_columns"]

EXTRA = "hetfed-lightning[tables]"
PARQUET = frozenset({".parquet", ".pq"})
NAMELESS = "Unnamed: "
"""Prefix of pandas' name for a column without one, which its position follows."""
_SEPARATORS = (";", "\t", "|", ",")
_DAMAGED = (ValueError, OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


def read_frame(
    path: Path,
    separator: str = ",",
    as_text: Sequence[str] = (),
    *,
    decimal: str = ".",
    max_unpacked: int | None = None,
) -> DataFrame:
    """Rows of a CSV or parquet file.

    Args:
        path: A CSV file in UTF-8 with a header, or a file whose suffix says parquet.
        separator: Mark between the columns of a CSV file, one character.
        as_text: Columns of a CSV file to read as text and without gaps, so that 007, 1e3 and NA stay as they are.
        decimal: Mark before the decimals of a CSV file, ``"."`` or ``","``.
        max_unpacked: Bytes that a compressed file may unpack to; None for the limit of
            :mod:`hetfed_lightning.data.unpacking`.

    Returns:
        A frame with at least one row, and no column name twice; names have no blanks around them.

    Raises:
        DataError: If the file is missing, empty, damaged or not UTF-8, unpacks to too much, or a row is longer than the
            header; if the separator is another one.
        ImportError: If pandas (or pyarrow, for parquet) is not installed.
    """
    pandas = import_optional("pandas", EXTRA)
    _check_marks(separator, decimal)
    if not path.is_file():  # also keeps pandas from fetching what looks like an address
        what = "is a folder, expected one table" if path.is_dir() else f"no such table file (looked in {Path.cwd()})"
        raise DataError(f"{path}: {what}")
    try:
        if path.suffix.lower() in PARQUET:
            frame, header = _read_parquet(pandas, path, max_unpacked)
        else:
            source = unpacked(path, max_unpacked)
            header = _header(pandas, path, source, separator)
            frame = _read_csv(pandas, source, separator, decimal, as_text)
    except DataError:
        raise
    except pandas.errors.EmptyDataError as error:
        raise DataError(f"{path}: the file is empty, expected a header and rows") from error
    except UnicodeDecodeError as error:
        byte = f"0x{error.object[error.start]:02x}"
        raise DataError(f"{path}: not UTF-8 (byte {byte}, {error.reason}): save it as UTF-8") from error
    except (*_DAMAGED, pandas.errors.ParserWarning) as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from error
    header = [name.strip() for name in header]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise DataError(f"{path}: column {', '.join(map(repr, twice))} occurs twice in the header: rename or drop one")
    if len(frame) == 0:
        raise DataError(f"{path}: the table has a header but no rows")
    frame.columns = pandas.Index(
        [str(name).strip() or f"{NAMELESS}{place}" for place, name in enumerate(frame.columns)]
    )
    return frame


def imported_pandas() -> ModuleType:
    """Package pandas.

    Raises:
        ImportError: If it is not installed; the message names what to install.
    """
    return import_optional("pandas", EXTRA)


def require_columns(path: Path, frame: DataFrame, wanted: Sequence[str]) -> None:
    """Refuse a frame that lacks a column, with the closest name that it has.

    Args:
        path: File of the frame, for the message.
        frame: The rows.
        wanted: Names of the columns.

    Raises:
        DataError: If a column is missing.
    """
    present = [str(name) for name in frame.columns]
    for name in wanted:
        if name not in present:
            hint = did_you_mean(name, present)
            if len(present) == 1:
                hint = f"; its only column is {present[0]!r}: is the separator another?"
            raise DataError(f"{path}: has no column {name!r}{hint}")


def _check_marks(separator: str, decimal: str) -> None:
    if not isinstance(separator, str) or len(separator) != 1 or separator in '"\r\n':
        raise DataError(f"separator: expected one character, such as ';' or '\\t', got {separator!r}")
    if decimal not in {".", ","}:
        raise DataError(f"decimal: expected '.' or ',', got {decimal!r}")
    if decimal == separator:
        raise DataError(
            f"separator and decimal are both {decimal!r}: a table with decimal commas has another separator"
        )


def _rewound(source: Path | BytesIO) -> Path | BytesIO:
    if isinstance(source, BytesIO):
        source.seek(0)
    return source


def _header(pandas: Any, path: Path, source: Path | BytesIO, separator: str) -> list[str]:
    """Names as they stand in the file: pandas makes a second "age" into "age.1" and goes on."""
    first = pandas.read_csv(_rewound(source), sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False)
    header: list[str] = first.iloc[0].tolist()
    other = next((mark for mark in _SEPARATORS if mark != separator and mark in header[0]), None)
    if len(header) == 1 and other is not None:
        raise DataError(
            f"{path}: its only column is {header[0]!r}: is the separator another? Set separator: {other!r}, or save "
            f"the table with {'commas' if separator == ',' else repr(separator)} between its columns"
        )
    return header


def _read_csv(pandas: Any, source: Path | BytesIO, separator: str, decimal: str, as_text: Sequence[str]) -> DataFrame:
    with warnings.catch_warnings():
        # Rows longer than the header would be cut.
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        frame: DataFrame = pandas.read_csv(
            _rewound(source), sep=separator, decimal=decimal, index_col=False, low_memory=False
        )
        text = [name for name in frame.columns if str(name).strip() in as_text]
        if text:
            # Apart: neither a dtype nor a converter keeps pandas from taking "NA" in one column for a gap.
            settings = {"usecols": text, "dtype": str, "keep_default_na": False}
            frame[text] = pandas.read_csv(_rewound(source), sep=separator, index_col=False, **settings)[text]
    return frame


def _read_parquet(pandas: Any, path: Path, max_unpacked: int | None) -> tuple[DataFrame, list[str]]:
    try:
        parquet = import_optional("pyarrow.parquet", "pyarrow")
    except ImportError:
        pass  # Another engine may be there; pandas tells if there is none.
    else:
        declared = parquet.read_metadata(path)
        # Encoded, a column of one value takes no room at all: what counts is a number for each cell.
        check_unpacked(path, declared.num_rows * declared.num_columns * 8, max_unpacked)
    try:
        frame: DataFrame = pandas.read_parquet(path)
    except ImportError as error:
        raise ImportError(f"{path}: reading parquet needs pyarrow ({error}): pip install pyarrow") from error
    # Rows are counted as in the file, whatever index was saved with them.
    return frame.reset_index(drop=True), [str(name) for name in frame.columns]
