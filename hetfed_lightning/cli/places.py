"""Places of a run's logs, as sentences for the logger in use."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger


def where_to_look(logger: Logger) -> str:
    """Command or path that shows a logger's content.

    Args:
        logger: Logger after a run.
    """
    if isinstance(logger, TensorBoardLogger):
        return f"tensorboard --logdir {logger.log_dir}"
    if isinstance(logger, CSVLogger):
        return str(Path(logger.log_dir) / "metrics.csv")
    if isinstance(logger, MLFlowLogger):
        # Asked of the client, since the logger keeps its own copy private.
        address = getattr(logger.experiment, "tracking_uri", None)
        return f"mlflow ui{f' --backend-store-uri {address}' if address else ''}, run {logger.run_id}"
    if isinstance(logger, WandbLogger):
        address = getattr(logger.experiment, "url", None)
        return address or f"wandb sync {Path(logger.experiment.dir).parent}"
    place = "" if logger.save_dir is None else f" in {logger.save_dir}"
    return f"{type(logger).__name__}, {logger.name} {logger.version}{place}"
