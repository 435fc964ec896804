"""Rows of metrics for loggers, one for each step of the horizontal axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary

if TYPE_CHECKING:
    import lightning as L


def give_loggers(trainer: L.Trainer, values: Mapping[str, float], step: int, round_index: int) -> None:
    """Log one row to every logger, with the round as ``epoch``, as Lightning's own ``log`` does.

    TensorBoard gets no ``epoch``: its axis is the round, and a chart of it would be a diagonal.

    Args:
        trainer: Trainer with the loggers.
        values: Metrics by tag.
        step: Step on the horizontal axis.
        round_index: Index of the measured round, from 0.
    """
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger):
            logger.log_metrics({"epoch": round_index, **values}, step=step)
        elif type(logger) is TensorBoardLogger and not logger._prefix:
            write_row(logger, values, step)
        else:
            logger.log_metrics(dict(values), step=step)


def write_row(logger: TensorBoardLogger, values: Mapping[str, float], step: int) -> None:
    """Write metrics of one step as one event: for hundreds of participants, one event each takes longer than a step.

    Args:
        logger: Logger to write to.
        values: Metrics by tag.
        step: Step on the horizontal axis.
    """
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]  # Lightning sets it at run time
        row = Summary(value=[Summary.Value(tag=key, simple_value=value) for key, value in values.items()])
        logger.experiment._get_file_writer().add_summary(row, step)
