"""Callback that saves a run's resolved configuration beside its checkpoints."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from hetfed_lightning.callbacks.run_folder import run_folder
from hetfed_lightning.checkpointing.atomic import atomic_file


class SavedConfiguration(SaveConfigCallback):
    """Callback that writes ``config.yaml`` into the run's own folder, so that no run overwrites another's.

    Lightning's own writes into ``Trainer.log_dir``, which all runs of W&B share and MLflow on a database lacks. Without
    a logger runs share ``default_root_dir``: an existing file stays, and this run's is ``config-v1.yaml`` and so on, as
    Lightning numbers checkpoints.

    Args:
        parser: Parser of the command.
        config: Settings that it found.
        resolved: The same as they are written, which takes the parser a tenth of a command's time to work out.
        **settings: As in Lightning.

    Attributes:
        path: The file, once it is written by this process.
    """

    path: Path | None = None

    def __init__(
        self, parser: LightningArgumentParser, config: Namespace, *, resolved: dict[str, Any], **settings: Any
    ) -> None:
        super().__init__(parser, config, **settings)
        self.resolved = resolved

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the file once per command; all processes take part.

        Args:
            trainer: Trainer of the run.
            pl_module: The federation.
            stage: Stage of the command.
        """
        if self.already_saved:
            return
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            # Tests with this file must not load the checkpoint that the run was resumed from.
            config = self.resolved | ({"ckpt_path": None} if "ckpt_path" in self.resolved else {})
            header = "".join(f"# {line}\n" for line in self.parser.dump_header or ())
            text = header + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
            path = folder / self.config_filename
            self.path = path if trainer.loggers else _not_anothers(path, text)
            with atomic_file(self.path) as file:
                file.write(text.encode())
            self.save_config(trainer, pl_module, stage)
        self.already_saved = True


def _not_anothers(path: Path, text: str) -> Path:
    """The path itself, or the first numbered one, that is free or holds the same text."""
    numbered = (path.with_stem(f"{path.stem}-v{number}") for number in count(1))
    candidate = path
    while candidate.exists() and not _says(candidate, text):
        candidate = next(numbered)
    return candidate


def _says(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()
