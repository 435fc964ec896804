"""Folder of a run, independent of its loggers, for record, configuration and predictions beside the checkpoints."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger


def run_folder(trainer: L.Trainer) -> Path:
    """Folder of a run, the parent of its ``checkpoints``; all processes have to call this, and get the first one's.

    For TensorBoard and CSV loggers it is ``Trainer.log_dir``. Other loggers name the folder of all their runs or, as
    MLflow on a database does, none: their runs have ``<save_dir>/<name>/<version>``, where ``ModelCheckpoint`` writes
    too.

    Args:
        trainer: Trainer whose first logger knows the run's name and version. Without a logger the folder is
            ``default_root_dir``, which runs share.
    """
    logger = trainer.loggers[0] if trainer.loggers else None
    if logger is None or isinstance(logger, (TensorBoardLogger, CSVLogger)):
        return Path(trainer.log_dir or trainer.default_root_dir)
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    found = Path(logger.save_dir or trainer.default_root_dir) / str(logger.name) / version
    return Path(trainer.strategy.broadcast(str(found)))
