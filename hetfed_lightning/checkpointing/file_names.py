"""File names of checkpoints that show metrics with a slash in their names, such as ``val_loss/hospital_a``."""

from __future__ import annotations

import re

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

_FIELD = re.compile(r"\{([^:}]*)([^}]*)\}")


def fields_of(filename: str) -> list[str]:
    """Metrics that a file name shows, in order, as in ``"{epoch}-{val_loss/a:.3f}"``."""
    return [match[1] for match in _FIELD.finditer(filename)]


def keep_names_flat(trainer: L.Trainer) -> None:
    """Make Lightning write ``epoch=3-val_loss_a=0.250.ckpt`` instead of ``a=0.250.ckpt`` in a folder per round.

    Metrics' names are put into file names here if one has a slash; Lightning's ``auto_insert_metric_name=True`` would
    keep the slash. Slashes outside of braces stay folders.

    Args:
        trainer: Trainer, before its callbacks are set up.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # the Trainer sets it where no checker looks
        if not isinstance(callback, ModelCheckpoint) or not callback.filename or not callback.auto_insert_metric_name:
            continue
        if any("/" in name for name in fields_of(callback.filename)):
            callback.filename = _FIELD.sub(_with_its_name, callback.filename)
            callback.auto_insert_metric_name = False


def _with_its_name(field: re.Match[str]) -> str:
    return f"{field[1].replace('/', '_')}{ModelCheckpoint.CHECKPOINT_EQUALS_CHAR}{field[0]}"
