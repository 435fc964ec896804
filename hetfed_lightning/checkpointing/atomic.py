"""Atomic writing: files are there whole or not at all, even if the process is killed.

Content goes into a temporary file in the folder of its destination, from there to the disk, and only then under its
name. A temporary folder on another filesystem would not do: moving from there is copying, which can be cut short.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PREFIX, SUFFIX = ".hetfed-", ".tmp"
"""Begin and end of a temporary file's name, around a random part. The destination's name is not in it, since that may
be as long as a filesystem allows."""

NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}
"""Errors of filesystems that cannot synchronise a folder."""


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """File to write, which replaces ``path`` when the block ends without an exception.

    Leftovers of killed processes in the folder are removed.

    Args:
        path: Destination; missing folders are made. A symbolic link there is replaced, not followed.

    Yields:
        A binary file without a buffer of its own, for reading too.

    Raises:
        OSError: If it cannot be written; the file at ``path`` is then unchanged.
    """
    destination = Path(path)
    folder = destination.parent
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    temporary, file = _temporary(folder)
    try:
        with file:
            yield file
            os.fsync(file.fileno())
            temporary.replace(destination)  # Still locked, so that no process removes it as a leftover.
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _synchronise(folder)


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write bytes, or text in UTF-8, through :func:`atomic_file`.

    Args:
        path: Destination; missing folders are made.
        content: Bytes or text.
    """
    data = content.encode() if isinstance(content, str) else content
    with atomic_file(path) as file:
        write_all(file, memoryview(data))


def write_all(file: BinaryIO, view: memoryview) -> None:
    """Write all bytes of a view, since a file without a buffer may take fewer at once.

    Args:
        file: File to write to.
        view: Bytes to write.
    """
    while view:
        view = view[file.write(view) :]


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files whose processes have ended; one that is being written is locked by its writer."""
    for leftover in folder.glob(f"{PREFIX}*{SUFFIX}"):
        # Another process may have removed it first.
        with contextlib.suppress(OSError), leftover.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def _temporary(folder: Path) -> tuple[Path, BinaryIO]:
    while True:
        path = folder / f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}"
        file = path.open("x+b", buffering=0)
        with contextlib.suppress(OSError):  # Some filesystems have no locks; their leftovers stay.
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:  # Not removed as a leftover before it was locked.
            return path, file
        file.close()


def _synchronise(folder: Path) -> None:
    """Write the folder's entry for the new name to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
