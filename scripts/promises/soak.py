"""A long run of everything at once, measured after every round: memory, open files, log bytes, seconds.

Eight participants of three architectures with distillation, averaging, validation, TensorBoard, a record and a
checkpoint every round. Started by tests/test_soak.py in a process of its own: others' memory is not to be counted.

    python scripts/promises/soak.py 500
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `scripts.benchmark`, from wherever this is started

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, Federation, Participant, RunRecord
from hetfed_lightning.backbones import ConvBackbone, MLPBackbone, RecurrentBackbone
from hetfed_lightning.showcases import DigitsDataModule
from scripts.benchmark.hardware import resident

SETTLED = 50
"""Rounds after which memory may no longer grow."""


class Gauge(L.Callback):
    """Notes what the process holds as every round ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rounds: dict[str, list[float]] = {"megabytes": [], "files": [], "log_bytes": [], "seconds": []}
        self._before = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Note it."""
        del trainer, pl_module
        now = time.perf_counter()
        written = sum(path.stat().st_size for path in self.folder.rglob("events.out.tfevents.*"))
        for key, value in (
            ("megabytes", resident()),
            ("files", len(list(Path("/proc/self/fd").iterdir()))),
            ("log_bytes", written),
            ("seconds", now - self._before),
        ):
            self.rounds[key].append(float(value))
        self._before = now


def federation() -> Federation:
    """Eight participants: three of images, two of sequences, three of plain vectors."""
    backbones: list[nn.Module] = [
        *[ConvBackbone(width=4, out_features=16, image_size=8) for _ in range(3)],
        *[RecurrentBackbone(input_size=8, out_features=16) for _ in range(2)],
        *[MLPBackbone(in_features=64, hidden=(16,), out_features=16) for _ in range(3)],
    ]
    return Federation({
        f"p{index}": Participant(one, nn.Linear(16, 10), optimizer=lambda p: torch.optim.Adam(p, lr=2e-3))
        for index, one in enumerate(backbones)
    })  # fmt: skip


def run(rounds: int, folder: Path) -> dict[str, list[float]]:
    """Train and measure.

    Returns:
        By name, a value after every round.
    """
    L.seed_everything(0, verbose=False)
    gauge = Gauge(folder)
    trainer = L.Trainer(
        max_epochs=rounds,
        accelerator="cpu",
        logger=TensorBoardLogger(folder, name="soak"),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            EnsembleDistillation(batch_size=64),
            BackboneAveraging(),
            ModelCheckpoint(folder / "checkpoints", save_last=True, every_n_epochs=1),
            RunRecord(),
            gauge,
        ],
    )
    trainer.fit(federation(), datamodule=DigitsDataModule(image_size=8, public_size=128, batch_size=64))
    return gauge.rounds


def growth(values: list[float], settled: int = SETTLED) -> float:
    """Rise of the straight line through the values after ``settled``, as a fraction of where it begins."""
    later = values[settled:]
    line = statistics.linear_regression(range(len(later)), later)
    return line.slope * (len(later) - 1) / line.intercept


def main() -> None:
    """Run as many rounds as the first argument says, and print what was measured as JSON."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(int(sys.argv[1]), Path(folder))))


if __name__ == "__main__":
    main()
