"""Compressed files, unpacked up to a limit: a file of one megabyte may claim, or hold, a thousand times as much.

A file that unpacks to more than 256 MiB and to more than a hundred times its size is refused; honest tables and images
unpack to a tenfold. For a larger file the user sets the limit.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from hetfed_lightning.data.errors import DataError

__all__ = ["LEAST", "RATIO", "check_unpacked", "most_bytes", "read_up_to", "unpacked"]

LEAST = 256 * 2**20
"""Bytes that every file may unpack to."""

RATIO = 100
"""Largest ratio of unpacked to packed bytes, for files where this allows more."""

_CHUNK = 1 << 22
_OPEN: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_UNREAD = (".zst", ".tar", ".tgz", ".7z")


def most_bytes(path: Path, max_unpacked: int | None = None) -> int:
    """Bytes that a file may unpack to, at most.

    Args:
        path: The file, which exists.
        max_unpacked: The user's own limit, in bytes; None for that of this module.

    Raises:
        DataError: If the limit is not positive.
    """
    if max_unpacked is None:
        return max(LEAST, RATIO * path.stat().st_size)
    if isinstance(max_unpacked, bool) or not isinstance(max_unpacked, int) or max_unpacked < 1:
        raise DataError(f"max_unpacked: expected a number of bytes of at least 1, or None, got {max_unpacked!r}")
    return max_unpacked


def check_unpacked(path: Path, count: int, max_unpacked: int | None = None) -> None:
    """Refuse a file that unpacks to more bytes than it may, or declares so.

    Args:
        path: The file.
        count: Bytes that it unpacks to.
        max_unpacked: The user's own limit, in bytes; None for that of this module.

    Raises:
        DataError: Naming the file, both sizes and the setting.
    """
    most = most_bytes(path, max_unpacked)
    if count > most:
        raise DataError(
            f"{path}: {path.stat().st_size} bytes unpack to {count} or more, and at most {most} are read: if the file "
            "is what it should be, set max_unpacked to the number of bytes it may have"
        )


def read_up_to(stream: IO[bytes], size: int) -> bytearray:
    """First ``size`` bytes of a stream, or as many as there are; read in pieces, so that no more memory is taken.

    Args:
        stream: An open file.
        size: Most bytes to read.
    """
    values = bytearray()
    while len(values) < size and (piece := stream.read(min(_CHUNK, size - len(values)))):
        values += piece
    return values


def unpacked(path: Path, max_unpacked: int | None = None) -> Path | BytesIO:
    """Content of a compressed file (``.gz``, ``.bz2``, ``.xz``, ``.zip`` of one file); the path of any other file.

    Args:
        path: The file.
        max_unpacked: The user's own limit, in bytes; None for that of this module.

    Raises:
        DataError: If there is more than a file may unpack to, a zip archive has not one file, or the compression is
            another one.
        OSError: If the file is damaged; likewise EOFError, zlib.error, lzma.LZMAError and zipfile.BadZipFile.
    """
    suffix = path.suffix.lower()
    if suffix in _UNREAD:
        raise DataError(f"{path}: {suffix} files are not unpacked: unpack it, or compress it as .gz")
    if suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            if len(archive.namelist()) != 1:
                raise DataError(f"{path}: expected one file in the archive, found {len(archive.namelist())}")
            with archive.open(archive.namelist()[0]) as stream:
                return _within(path, stream, max_unpacked)
    if suffix in _OPEN:
        with _OPEN[suffix](path) as stream:
            return _within(path, stream, max_unpacked)
    return path


def _within(path: Path, stream: IO[bytes], max_unpacked: int | None) -> BytesIO:
    content = read_up_to(stream, most_bytes(path, max_unpacked) + 1)
    check_unpacked(path, len(content), max_unpacked)
    return BytesIO(content)
