"""Saves a run's resolved configuration beside its checkpoints."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback

from hetfed_lightning.callbacks.run_folder import run_folder
from hetfed_lightning.checkpointing.atomic import atomic_file


class SavedConfiguration(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's own folder, so that no run takes another's away.

    Lightning's own writes into ``Trainer.log_dir``, which all runs of W&B share and MLflow on a database lacks.
    Without a logger runs share ``default_root_dir``: a file that is there stays, and this run's is ``config-v1.yaml``
    and so on, as Lightning numbers checkpoints.

    Attributes:
        path: The file, once it is written by this process.
    """

    path: Path | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the file once a command; all processes take part."""
        if self.already_saved:
            return
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            # The checkpoint that this run went on from is not what its own configuration is tested with later.
            config = self.config.clone()
            if config.get("ckpt_path") is not None:
                config["ckpt_path"] = None
            text = self.parser.dump(config, skip_none=False)
            path = folder / self.config_filename
            self.path = path if trainer.loggers else _not_anothers(path, text)
            with atomic_file(self.path) as file:
                file.write(text.encode())
            self.save_config(trainer, pl_module, stage)
        self.already_saved = True


def _not_anothers(path: Path, text: str) -> Path:
    """The path itself, or the first numbered one where no file is, or one that says the same."""
    numbered = (path.with_stem(f"{path.stem}-v{number}") for number in count(1))
    candidate = path
    while candidate.exists() and not _says(candidate, text):
        candidate = next(numbered)
    return candidate


def _says(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()
