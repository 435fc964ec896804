"""Reading of checkpoint files that may be missing, cut off, damaged, or meant to run code; errors name the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from hetfed_lightning.checkpointing.form import form_problem
from hetfed_lightning.checkpointing.sealing import DamagedFileError, is_sealed

FAULTS = (RuntimeError, EOFError, OSError, UnpicklingError, ValueError, LookupError, TypeError, AttributeError)
"""Errors of torch on bytes that are no checkpoint; pickles with flipped bits raise any of these."""


LONGEST_REASON = 200
"""Characters of torch's own message that are passed on; some go on for pages."""


class UnreadableCheckpointError(ValueError):
    """A checkpoint file that cannot be used; the message names it.

    Attributes:
        is_damaged: True if its bytes are not the ones that were written, so that an older file may do instead.
    """

    def __init__(self, path: Any, error: Exception) -> None:
        self.is_damaged = not (isinstance(error, UnpicklingError) and "weights only" in str(error).lower())
        reason = str(error) if isinstance(error, DamagedFileError) else f"{type(error).__name__}: {error}"
        if self.is_damaged:
            reason = reason.partition("\n")[0][:LONGEST_REASON]
            found = f"it is cut off, damaged or no checkpoint ({reason})"
        else:
            found = "it holds more than weights and plain data, which might run code"
        super().__init__(f"{path} cannot be read: {found}. Use another checkpoint.")


def refuse_address(path: Any) -> None:
    """Refuse anything but a file on this machine: the content behind an address may be another when it is opened.

    Raises:
        ValueError: If ``path`` is an address, also one of a chain such as ``simplecache::s3://...``.
    """
    if "://" in str(path) or "::" in str(path):
        raise ValueError(
            f"{path}: expected a checkpoint file on this machine, got an address. Fetch it, look where it comes from, "
            "and name the file."
        )


def read_checkpoint(path: str | Path | BinaryIO, *, map_location: Any = "cpu", **options: Any) -> dict[str, Any]:
    """Content of a checkpoint, whose hash is checked; none of its code runs.

    Args:
        path: A local file, or one that is open.
        map_location: Device of the tensors, as for ``torch.load``.
        options: Further options of ``torch.load``.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableCheckpointError: If it is damaged or holds more than weights and plain data.
        ValueError: If it is an address.
    """
    refuse_address(path)
    with naming_faults(path):
        is_sealed(path)
        content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True, **options)
    return content


def read_content(path: Path) -> Any:
    """Content of a file without the values of its tensors; its hash is not checked.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableCheckpointError: If the bytes that are read are damaged or hold more than weights and plain data.
    """
    with naming_faults(path):
        return torch.load(path, map_location="meta", mmap=True, weights_only=True)


def check_form(content: Any, path: Any) -> None:
    """Refuse content of a file that is no checkpoint.

    Args:
        content: Content of the file.
        path: The file, for the message.

    Raises:
        UnreadableCheckpointError: If it is no checkpoint; names the file and the missing entry.
    """
    if (problem := form_problem(content)) is not None:
        raise UnreadableCheckpointError(path, ValueError(problem))


@contextlib.contextmanager
def naming_faults(path: Any) -> Iterator[None]:
    """Context that adds the file's name to errors of reading it; ``FileNotFoundError`` passes unchanged.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableCheckpointError: If reading fails in another way.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except FAULTS as error:
        raise UnreadableCheckpointError(path, error) from error
