"""The plugin through which a Trainer writes and reads checkpoints that survive kills, full disks and flipped bits."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.io import CheckpointIO, TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn

from hetfed_lightning.checkpointing.age import newest_first, progress_of, run_of
from hetfed_lightning.checkpointing.reading import (
    UnreadableCheckpointError,
    check_form,
    naming_faults,
    read_content,
    refuse_address,
)
from hetfed_lightning.checkpointing.sealing import DamagedFileError, is_sealed, write_checkpoint

log = logging.getLogger(__name__)

_LAST = re.compile(rf"{ModelCheckpoint.CHECKPOINT_NAME_LAST}(-v\d+)?")
"""Names among which ``ckpt_path="last"`` chooses."""

PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN}
"""Errors of a full or unresponsive disk, which may have passed by the next checkpoint."""


class SafeCheckpointIO(CheckpointIO):
    """Checkpoints that are whole or not there, carry their SHA-256, and cost no training when the disk is full.

    Every :class:`~hetfed_lightning.Federation` brings it along, whatever the strategy; ``ModelCheckpoint`` and
    ``Trainer.save_checkpoint`` are used as ever. For other modules: ``Trainer(plugins=[SafeCheckpointIO()])``.

    - A file replaces an older one only once it is on the disk. If the process is killed before, the older one stays,
      wherever temporary files lie.
    - Every file is checked before it is used. A damaged one is refused by name. When training is resumed, the newest
      intact one of its folder is taken instead, and a warning names both. Files without a hash are read as ever.
    - A disk that is full, or fails, while training: a warning; training goes on, and the files that the missing one
      would have replaced stay. Errors of another kind (no permission) are raised, unless this process has written to
      that folder before. Outside of ``Trainer.fit`` all are raised.

    Files that are not on a local or mounted disk (``s3://...``) are written by Lightning, without a hash. They are not
    read, since their content may have been exchanged.

    Args:
        wrapped: A plugin that writes and reads in its own way. Its files carry no hash and are as whole as it makes
            them; the rest applies.
    """

    def __init__(self, wrapped: CheckpointIO | None = None) -> None:
        self.wrapped = wrapped
        self.trainer: L.Trainer | None = None
        """The Trainer; without one, training is taken to be in progress when a file is written, and not to be resumed
        when one is read."""
        self._inner = wrapped or TorchCheckpointIO()
        self._written: set[Path] = set()
        self._failed: str | None = None
        self._spared: defaultdict[str, list[str]] = defaultdict(list)

    # Writing

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: Content of the checkpoint.
            path: Destination.
            storage_options: Options of the wrapped plugin.

        Raises:
            OSError: If it cannot be written, and training would not be ended by that alone.
        """
        self._failed = None
        file = _local(path)
        try:
            if file is None or self.wrapped is not None or storage_options is not None:
                self._inner.save_checkpoint(checkpoint, path, storage_options=storage_options)
            else:
                write_checkpoint(checkpoint, file)
        except OSError as error:
            if not self._is_borne(error, file):
                raise
            self._failed = str(path)
            self._warn(path, file, error)
        else:
            if file is not None:
                self._written.add(file.parent)

    def _is_borne(self, error: OSError, file: Path | None) -> bool:
        if self.trainer is not None and not (
            self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.state.stopped
        ):
            return False
        return error.errno in PASSING or (file is not None and file.parent in self._written)

    def _warn(self, path: Any, file: Path | None, error: OSError) -> None:
        kept = None if file is None else next(intact_files(file.parent), None)
        log.warning(
            "The checkpoint %s could not be written: %s. Training goes on; %s",
            path,
            error.strerror or error,
            "there is no checkpoint to go on from yet." if kept is None else f"the newest one that is kept is {kept}.",
        )

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint; if its successor could not be written, only when that one would be removed."""
        files = [*self._spared.pop(str(path), []), str(path)]
        if self._failed is not None:
            self._spared[self._failed] += files
            return
        for file in files:
            self._inner.remove_checkpoint(file)

    # Reading

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Content of a checkpoint, or of the newest intact one if training is resumed and the file is damaged.

        Args:
            path: A file.
            args: Arguments of the wrapped plugin.
            kwargs: Keyword arguments of the wrapped plugin.

        Raises:
            FileNotFoundError: If there is no such file.
            UnreadableCheckpointError: If it is damaged, of another form, or holds entries that may not be loaded.
            ValueError: If it is an address.
        """
        refuse_address(path)
        try:
            content = self._read(path, *args, **kwargs)
        except UnreadableCheckpointError as error:
            file = _local(path)
            trainer = self.trainer
            if file is None or trainer is None or trainer.state.fn != TrainerFn.FITTING or not error.is_damaged:
                raise
            for other in intact_files(file.parent, file):
                with contextlib.suppress(UnreadableCheckpointError):
                    content = self._read(other, *args, **kwargs)
                    if "optimizer_states" in content:  # Weights alone cannot be trained on.
                        log.warning("%s Training goes on from %s, the newest intact one there.", error, other)
                        trainer._checkpoint_connector._ckpt_path = other
                        return content
            raise
        self._tell_of_a_later_one(path, content)
        return content

    def _tell_of_a_later_one(self, path: Any, content: Mapping[str, Any]) -> None:
        """Warn if another ``last.ckpt`` has more progress, since Lightning chooses among them by the time of a file."""
        file = _local(path)
        if file is None or self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        if not _LAST.fullmatch(file.stem):
            return
        for other in newest_first(one for one in file.parent.glob("*.ckpt") if _LAST.fullmatch(one.stem)):
            with contextlib.suppress(OSError, UnreadableCheckpointError):
                found = read_content(other)
                if run_of(found)[0] == run_of(content)[0] and progress_of(found) > progress_of(content):
                    log.warning(
                        "Training goes on from %s; %s beside it has come further, to batch %d. Name it to go on there.",
                        file, other.name, found["global_step"],
                    )  # fmt: skip
                    return

    def _read(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        with naming_faults(path):
            file = _local(path)
            if file is not None and file.is_symlink() and not file.exists():
                raise DamagedFileError("a link to a file that is not there")
            if file is not None and file.is_file():
                is_sealed(file)
            content = self._inner.load_checkpoint(path, *args, **kwargs)
        if self.trainer is not None:
            check_form(content, path)
        return content

    def teardown(self) -> None:
        """Tear down the wrapped plugin."""
        self._inner.teardown()


def intact_files(folder: Path, damaged: Path | None = None) -> Iterator[Path]:
    """Intact checkpoints of a folder, the one with the most progress first; then those that carry no hash.

    Args:
        folder: The folder.
        damaged: File to leave out, with links to it; None for none.
    """
    without = []
    others = [one for one in folder.glob("*.ckpt") if damaged is None or one.resolve() != damaged.resolve()]
    for file in newest_first(others):
        if file.is_file():
            with contextlib.suppress(OSError, DamagedFileError):
                if is_sealed(file):
                    yield file
                else:
                    without.append(file)
    yield from without


def make_safe(trainer: L.Trainer) -> None:
    """Make a Trainer write and read through :class:`SafeCheckpointIO`, around or inside of the user's plugin."""
    strategy = trainer.strategy
    outermost = strategy._checkpoint_io
    if isinstance(outermost, _WrappingCheckpointIO):  # Wraps another plugin, for instance to write in a thread.
        inside = outermost
        _remove_in_turn(inside)
        while isinstance(inside.checkpoint_io, _WrappingCheckpointIO):
            inside = inside.checkpoint_io
            _remove_in_turn(inside)
        if not isinstance(inside.checkpoint_io, SafeCheckpointIO):
            inside._checkpoint_io = _safe(inside.checkpoint_io)
            inside._base_checkpoint_io_configured = True
        found = inside.checkpoint_io
    else:
        strategy.checkpoint_io = found = _safe(outermost)
    if isinstance(found, SafeCheckpointIO):
        found.trainer = trainer


def _remove_in_turn(plugin: _WrappingCheckpointIO) -> None:
    """Make a plugin that writes in a thread also remove there: else a file yet to be written would be left behind."""
    if not isinstance(plugin, AsyncCheckpointIO):
        return

    def remove(path: Any) -> None:
        try:
            type(plugin).remove_checkpoint(plugin, path)
        except OSError as error:
            plugin._error = error  # Raised at the next file and at the end, as errors of writing are.

    def remove_in_turn(path: Any) -> None:
        plugin._ensure_setup()
        if plugin._executor is not None:
            plugin._executor.submit(remove, path)

    vars(plugin)["remove_checkpoint"] = remove_in_turn


def _safe(plugin: CheckpointIO | None) -> CheckpointIO:
    if isinstance(plugin, SafeCheckpointIO):
        return plugin
    return SafeCheckpointIO(None if type(plugin) in {type(None), TorchCheckpointIO} else plugin)


def _local(path: Any) -> Path | None:
    """A path as a local file; None for an address."""
    text = str(path).removeprefix("file://")
    return None if "://" in text or "::" in text else Path(text).expanduser()
