"""Reading checkpoint files that may be missing, cut off, damaged, or meant to run code: told by the file's name."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import CheckpointIO

from hetfed_lightning.checkpointing.form import form_problem

FAULTS = (RuntimeError, EOFError, OSError, UnpicklingError, ValueError, LookupError, TypeError, AttributeError)
"""What torch raises of bytes that are no checkpoint; pickles of flipped bits fail in any of these ways."""


LONGEST_REASON = 200
"""Characters of torch's own message that are passed on; some go on for pages."""


class UnreadableCheckpointError(ValueError):
    """A checkpoint file that cannot be used; the message names it."""

    def __init__(self, path: Any, error: Exception) -> None:
        if isinstance(error, UnpicklingError) and "weights only" in str(error).lower():
            found = "it holds more than weights and plain data, which might run code"
        else:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            found = f"it is cut off, damaged or no checkpoint ({reason[:LONGEST_REASON]})"
        super().__init__(f"{path} cannot be read: {found}. Use another checkpoint.")


def refuse_address(path: Any) -> None:
    """Refuse what is no file on this machine: nobody can say what will be behind an address when it is opened.

    Raises:
        ValueError: If ``path`` is an address, also one of a chain such as ``simplecache::s3://...``.
    """
    if "://" in str(path) or "::" in str(path):
        raise ValueError(
            f"{path}: expected a checkpoint file on this machine, got an address. Fetch it, look where it comes from, "
            "and name the file."
        )


def read_checkpoint(path: str | Path, *, map_location: Any = "cpu", **options: Any) -> dict[str, Any]:
    """A checkpoint's content; none of its code runs.

    Args:
        path: A local file.
        map_location: Device of the tensors, as for ``torch.load``.
        options: Further ones of ``torch.load``.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableCheckpointError: If it is damaged or holds more than weights and plain data.
        ValueError: If it is an address.
    """
    refuse_address(path)
    try:
        content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True, **options)
    except FileNotFoundError:
        raise
    except FAULTS as error:
        raise UnreadableCheckpointError(path, error) from error
    if (problem := form_problem(content)) is not None:
        raise UnreadableCheckpointError(path, ValueError(problem))
    return content


class NamedFaults(CheckpointIO):
    """Reads as the plugin that it wraps, and names the file of which that one says nothing.

    Args:
        wrapped: What reads and writes.
    """

    def __init__(self, wrapped: CheckpointIO) -> None:
        self.wrapped = wrapped

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """As the wrapped plugin."""
        self.wrapped.save_checkpoint(*args, **kwargs)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As the wrapped plugin.

        Raises:
            FileNotFoundError: If there is no such file.
            UnreadableCheckpointError: If it is damaged or holds what may not be loaded.
            ValueError: If it is an address.
        """
        refuse_address(path)
        try:
            content = self.wrapped.load_checkpoint(path, *args, **kwargs)
        except FileNotFoundError:
            raise
        except FAULTS as error:
            raise UnreadableCheckpointError(path, error) from error
        if (problem := form_problem(content)) is not None:
            raise UnreadableCheckpointError(path, ValueError(problem))
        return content

    def remove_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """As the wrapped plugin."""
        self.wrapped.remove_checkpoint(*args, **kwargs)

    def teardown(self) -> None:
        """As the wrapped plugin."""
        self.wrapped.teardown()


def name_faults(trainer: L.Trainer) -> None:
    """Let the trainer's strategy name the checkpoint files that it cannot read."""
    inside = trainer.strategy.checkpoint_io
    if not isinstance(inside, NamedFaults):
        trainer.strategy.checkpoint_io = NamedFaults(inside)
