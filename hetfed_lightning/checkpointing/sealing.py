"""Sealing of checkpoints with their own SHA-256, so that a flipped bit or a cut is seen before the file is used.

``torch.save`` writes a zip archive, and the seal is the archive's comment: it stays with the file when that is copied,
renamed or linked, and all readers of archives or checkpoints read the file as ever. The hash covers every byte before
it. The hash itself and the length of the file cannot be damaged unnoticed either:

- a file with the seal's mark is intact if the hash is right;
- one without it has to end as an archive ends that never had a seal. Older checkpoints and those of others do.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import threading
from pathlib import Path
from typing import IO, Any, BinaryIO, Self, cast

import torch

from hetfed_lightning.checkpointing.atomic import atomic_file, write_all

MARK = b"hetfed sha256 "
"""First bytes of the comment, followed by 64 hexadecimal digits."""

HASH = 64
"""Digits of the hash."""

SEAL = len(MARK) + HASH
"""Bytes of the whole comment."""

ARCHIVE, END, END_LENGTH, NO_COMMENT = b"PK\x03\x04", b"PK\x05\x06", 22, b"\0\0"
"""Parts of a zip archive: its first bytes; the first bytes of its last record, which the comment follows; the bytes of
that record; its last two, the comment's length, of an archive without comment (APPNOTE.TXT of PKWARE, 4.3.7 and
4.3.16)."""

BLOCK = 1 << 20
"""Bytes that are written, or read, at once."""

WORTH_A_THREAD = 4 << 20
"""Bytes of a file above which its hash is computed while it is being written."""


class DamagedFileError(ValueError):
    """Error of a file that is not as it was written."""


def write_checkpoint(content: Any, path: str | Path) -> None:
    """Write a checkpoint with its seal; the file is there whole or not at all.

    Args:
        content: Anything that ``torch.save`` takes.
        path: Destination, a local file; see :func:`~hetfed_lightning.checkpointing.atomic.atomic_file`.

    Raises:
        OSError: If it cannot be written; the file at ``path`` is then unchanged.
    """
    with atomic_file(path) as file, SealingFile(file) as sealing:
        torch.save(content, cast("IO[bytes]", sealing))


def is_sealed(file: str | Path | BinaryIO) -> bool:
    """True if a file carries an intact seal. All of it is read.

    Args:
        file: A path, or an open file, which is left at its beginning.

    Raises:
        DamagedFileError: If the seal is broken, or it once had one.
        OSError: If it cannot be read.
    """
    if isinstance(file, str | Path):
        with Path(file).open("rb") as opened:
            return is_sealed(opened)
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - SEAL))
    end = file.read(SEAL)
    file.seek(0)
    if size > SEAL and end.startswith(MARK):
        if _hash_of(file, size - HASH) != end[len(MARK) :]:
            raise DamagedFileError("its SHA-256 is not the one that was written with it")
        file.seek(0)
        return True
    if ARCHIVE.startswith(file.read(len(ARCHIVE))) and not (
        end[-END_LENGTH:].startswith(END) and end.endswith(NO_COMMENT)
    ):
        raise DamagedFileError("its end is missing or altered")
    file.seek(0)
    return False


class SealingFile:
    """File for ``torch.save`` that passes on all bytes and ends with a seal.

    Written bytes are read back and hashed in a thread while torch goes on; files of a few megabytes are read in the
    end. Hashing the tensors themselves would make torch wait.

    Args:
        file: Destination, open for reading too.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._held = b""
        self._error: OSError | None = None
        self._follower = _Follower(file.fileno())

    def write(self, data: Any) -> int:
        """Number of bytes taken, always all; the last two so far, the length of the archive's comment, are held back.

        An error is kept for the end: torch would report it as another one if it were raised here.
        """
        view = memoryview(data).cast("B")
        size = len(view)
        if self._error is None:
            try:
                if size < 2:
                    view = memoryview(self._held + bytes(view))
                else:
                    self._pass_on(memoryview(self._held))
                self._pass_on(view[:-2])
                self._held = bytes(view[-2:])
            except OSError as error:
                self._error = error
        return size

    def flush(self) -> None:
        """Do nothing, since nothing is buffered."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Write the seal, unless torch gave up; raise the first error of any write."""
        try:
            if self._error is not None:
                raise self._error
            if error[0] is None:
                self._seal()
        finally:
            self._follower.end()

    def _seal(self) -> None:
        self._pass_on(memoryview(struct.pack("<H", SEAL) + MARK))
        if self._follower.is_running:
            os.fsync(self._file.fileno())  # Runs beside the hash; only the seal is left for the next call.
        write_all(self._file, memoryview(self._follower.end().encode()))

    def _pass_on(self, view: memoryview) -> None:
        for start in range(0, len(view), BLOCK):
            write_all(self._file, view[start : start + BLOCK])
            self._follower.follow(min(BLOCK, len(view) - start))


class _Follower:
    """SHA-256 of a file that is still being written."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._hash = hashlib.sha256()
        self._written = self._hashed = 0
        self._changed = threading.Condition()
        self._ended = False
        self._error: OSError | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """True if it hashes in a thread."""
        return self._thread is not None

    def follow(self, count: int) -> None:
        """Hash ``count`` bytes more."""
        with self._changed:
            self._written += count
            self._changed.notify()
        if self._thread is None and self._written >= WORTH_A_THREAD:
            self._thread = threading.Thread(target=self._run, name="checkpoint-hash", daemon=True)
            self._thread.start()

    def end(self) -> str:
        """SHA-256 of all bytes, in hexadecimal digits.

        Raises:
            OSError: If the file could not be read back.
        """
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread is None:
            self._run()
        else:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._hash.hexdigest()

    def _run(self) -> None:
        try:
            while count := self._await():
                found = os.pread(self._descriptor, count, self._hashed)
                if not found:
                    raise OSError(errno.EIO, "a file that is being written became shorter")
                self._hash.update(found)
                self._hashed += len(found)
        except OSError as error:
            self._error = error

    def _await(self) -> int:
        with self._changed:
            while self._hashed == self._written and not self._ended:
                self._changed.wait()
            return min(BLOCK, self._written - self._hashed)


def _hash_of(file: BinaryIO, count: int) -> bytes:
    """SHA-256 of the first ``count`` bytes from here, in hexadecimal digits."""
    found = hashlib.sha256()
    buffer = memoryview(bytearray(min(BLOCK, count)))
    while count:
        read = file.readinto(buffer[: min(len(buffer), count)])  # type: ignore[attr-defined]
        if not read:
            break
        found.update(buffer[:read])
        count -= read
    return found.hexdigest().encode()
