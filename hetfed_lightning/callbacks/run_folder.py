"""Where a run writes, whatever its loggers are: record, configuration and predictions beside the checkpoints."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger


def run_folder(trainer: L.Trainer) -> Path:
    """The folder of one run, the one above its ``checkpoints``. All processes have to ask, and get the first one's.

    ``Trainer.log_dir`` is that for TensorBoard and CSV loggers. Others say where they keep all their runs, or, as
    MLflow on a database does, nothing: there each run has ``<save_dir>/<name>/<version>``, where ``ModelCheckpoint``
    writes too.

    Args:
        trainer: Set up, so that its first logger knows the run's name and version. Without a logger it is
            ``default_root_dir``, which runs share.
    """
    logger = trainer.loggers[0] if trainer.loggers else None
    if logger is None or isinstance(logger, (TensorBoardLogger, CSVLogger)):
        return Path(trainer.log_dir or trainer.default_root_dir)
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    found = Path(logger.save_dir or trainer.default_root_dir) / str(logger.name) / version
    return Path(trainer.strategy.broadcast(str(found)))
