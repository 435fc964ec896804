"""Termination by a signal: the run saves a checkpoint at its next batch and ends with the signal's exit code.

Lightning 2.6 ends a run that received SIGTERM after its batch, without a checkpoint and with exit code 0; SLURM's
signal makes it save in the middle of a batch. With several processes it asks the first for the signal before every
batch and inside the handler, which waits for ever if one rank alone received it.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.federation_view import FederationView

log = logging.getLogger(__name__)

FILE = "last-interrupted.ckpt"
"""Name of the checkpoint, beside those of ``ModelCheckpoint``; ``ckpt_path="last"`` finds it."""


class Preemption:
    """Handler of the signals that end a run.

    Attributes:
        signal: Received signal; None before one.
        file: Checkpoint saved for it.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self.signal: int | None = None
        self.file: str | None = None
        self._trainer = trainer
        connector = trainer._signal_connector
        # Lightning registers these when it begins to train, the second one where SLURM runs the job.
        for handler in ("_sigterm_notifier_fn", "_slurm_sigusr_handler_fn"):
            setattr(connector, handler, self._hear)
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]

    def _hear(self, signum: int, frame: Any) -> None:
        del frame
        self.signal = self.signal or signum
        trainer = self._trainer
        if trainer.state.fn != TrainerFn.FITTING:
            if not trainer.received_sigterm and trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signum)
            trainer._signal_connector.received_sigterm = True  # There is nothing to save: Lightning ends after a batch.

    def look(self, federation: FederationView) -> None:
        """Save a checkpoint and end the run, if a signal was received; called between batches.

        Raises:
            SIGTERMException: If it ends, with exit code 128 and the signal's number.
        """
        found = federation.ranks.stops(self.signal)
        if found is None:
            return
        trainer = federation.trainer
        if found == signal.SIGTERM:
            self._save(trainer)
        else:  # Saves where Lightning looks when SLURM starts the job again, and asks SLURM for that.
            type(trainer._signal_connector)._slurm_sigusr_handler_fn(trainer._signal_connector, found, None)  # type: ignore[arg-type]
        raise SIGTERMException(128 + found)

    def _save(self, trainer: L.Trainer) -> None:
        file = interruption_file(trainer)
        if file is None:
            log.warning("SIGTERM: the run ends. There is no ModelCheckpoint that says where to save it.")
            return
        trainer.save_checkpoint(file, weights_only=False)
        if trainer.is_global_zero and (os.path.exists(file) or "://" in file):  # noqa: PTH110 - it may be an address
            self.file = file
            log.warning("SIGTERM: the run ends. Trainer.fit(ckpt_path=%r) goes on with its next batch.", file)


def interruption_file(trainer: L.Trainer) -> str | None:
    """Path of an interrupted run's checkpoint, in the folder of its first ``ModelCheckpoint``; None without one."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            return os.path.join(callback.dirpath, FILE)  # noqa: PTH118 - it may be an address
    return None


def set_exit_code(exception: BaseException) -> None:
    """Set the process's exit code for Lightning's SIGTERM exception to 143, as in a shell, instead of 0."""
    if isinstance(exception, SIGTERMException) and exception.code is None:
        exception.code = 128 + signal.SIGTERM


def _nothing() -> None:
    """In place of asking the first rank before every batch."""
