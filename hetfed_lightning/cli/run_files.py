"""Files of a run that ``hetfed join`` and ``hetfed leave`` read and write: its configuration and its checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

from hetfed_lightning.cli.configs import ConfigError

log = logging.getLogger(__name__)

CHECKPOINT = "federation.ckpt"
CONFIG = "config.yaml"


def tell_how_to_go_on(folder: Path) -> None:
    """Log the command that trains all present participants."""
    log.info("Written: %s, %s", folder / CHECKPOINT, folder / CONFIG)
    log.info("Everyone goes on, until so many rounds have been trained in all, by")
    log.info("  hetfed fit -c %s --ckpt_path %s --trainer.max_epochs ROUNDS", folder / CONFIG, folder / CHECKPOINT)


def config_of_run(ckpt_path: str) -> Path:
    """``config.yaml`` of the run that saved a checkpoint, in its folder or the one above.

    Raises:
        ConfigError: If there is none.
    """
    folder = Path(ckpt_path).resolve().parent
    for one in (folder, folder.parent):
        if (one / CONFIG).is_file():
            return one / CONFIG
    raise ConfigError(
        f"--ckpt_path: there is no {CONFIG} beside {ckpt_path} nor in the folder above; give the federation's "
        "configuration with -c, before the newcomer's."
    )
