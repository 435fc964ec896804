"""Seconds of a federated round on one process and on several, in turns, with one thread each.

Every run is a process of its own (and those it launches), with default logging and checkpointing, validated each
round. The first rounds, in which torch warms up and participants move to where they fit, are left out. Beside it, how
fast the machine lets several be: as many federations of a part of the participants each, at once and without a word
between them.

    python scripts/two_processes.py                    # the CNN of FedAvg, 8 participants, 1 and 2 processes
    python scripts/two_processes.py --work mixed       # four architectures that distil
    python scripts/two_processes.py --work gru --processes 4 --layout data
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

import hetfed_lightning as hf
from hetfed_lightning.backbones import ConvBackbone, MLPBackbone, RecurrentBackbone, ResidualBackbone
from hetfed_lightning.data import Examples

SKIPPED = 3
"""Rounds before those that count."""

RESULT = "seconds per round: "


class Timed(L.Callback):
    """Seconds of every round, its validation and checkpoint included."""

    def __init__(self) -> None:
        self.began: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A round begins."""
        del trainer, pl_module
        self.began.append(time.perf_counter())


def backbone(work: str, index: int) -> nn.Module:
    """A participant's backbone, for images of 28 x 28 pixels."""
    if work == "cnn":  # McMahan et al. (2017): 32 and 64 channels, 512 features.
        return nn.Sequential(
            *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(3136, 512), nn.ReLU()),
        )
    if work == "gru":
        return RecurrentBackbone(out_features=64)
    kinds: list[Any] = [ConvBackbone, RecurrentBackbone, ResidualBackbone, MLPBackbone]
    kind = kinds[index % len(kinds)]
    return kind(784, out_features=64) if kind is MLPBackbone else kind(out_features=64)


def images(count: int, seed: int) -> Examples:
    """Noise with a bright row for each class."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(10, (count,), generator=generator)
    inputs = torch.randn(count, 1, 28, 28, generator=generator)
    inputs[torch.arange(count), 0, 2 * targets] += 2
    return Examples(inputs, targets)


def federation(work: str, participants: int) -> tuple[hf.Federation, hf.FederatedDataModule, list[L.Callback]]:
    """What is trained: everyone has 320 images and 10 steps a round."""
    L.seed_everything(0, verbose=False)
    names = [f"participant_{index}" for index in range(participants)]
    members = {}
    for index, name in enumerate(names):
        made = backbone(work, index)
        width = 512 if work == "cnn" else 64
        flatten = nn.Flatten() if isinstance(made, MLPBackbone) else None
        members[name] = hf.Participant(
            made, nn.Linear(width, 10), transform=flatten, optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)
        )
    data = hf.FederatedDataModule(
        {name: images(320, index) for index, name in enumerate(names)},
        {name: images(64, 1000 + index) for index, name in enumerate(names)},
        public=images(256, 2000),
    )
    callbacks: list[L.Callback] = [hf.BackboneAveraging()]
    if work == "mixed":
        callbacks.append(hf.EnsembleDistillation())
    return hf.Federation(members), data, callbacks


def train(arguments: argparse.Namespace) -> None:
    """One run; its rounds' seconds are the last line that rank 0 prints."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    module, data, callbacks = federation(arguments.work, arguments.participants)
    timed = Timed()
    trainer = L.Trainer(
        max_epochs=SKIPPED + arguments.rounds + 1,
        accelerator=arguments.device,
        strategy=hf.FederatedStrategy(layout=arguments.layout),
        devices=arguments.train,
        callbacks=[timed, *callbacks],
        default_root_dir=arguments.folder,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    if trainer.is_global_zero:
        lasted = [after - before for before, after in zip(timed.began, timed.began[1:], strict=False)]
        print(RESULT + json.dumps(lasted[SKIPPED:]), flush=True)


def run(processes: int, participants: int, *, at_once: int = 1) -> float:
    """Median seconds of a round of one run, or the slowest's of several at once."""
    with tempfile.TemporaryDirectory() as folder:
        own = ["--train", str(processes), "--participants", str(participants)]
        runs = [
            subprocess.Popen(  # noqa: S603 - its own command
                [sys.executable, __file__, *sys.argv[1:], *own, "--folder", str(Path(folder) / str(index))],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            for index in range(at_once)
        ]  # fmt: skip
        said = [one.communicate() for one in runs]
    found: list[float] = []
    for one, (output, errors) in zip(runs, said, strict=True):
        lines = [line for line in output.splitlines() if line.startswith(RESULT)]
        if one.returncode or not lines:
            raise SystemExit(f"{processes} processes failed:\n{output}\n{errors}")
        found.append(statistics.median(json.loads(lines[-1].removeprefix(RESULT))))
    return max(found)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=["cnn", "gru", "mixed"], default="cnn")
    parser.add_argument("--participants", type=int, default=8)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--layout", choices=["participant", "data"], default="participant")
    parser.add_argument("--rounds", type=int, default=6, help="Rounds of a run that count.")
    parser.add_argument("--turns", type=int, default=3, help="Runs of each.")
    parser.add_argument("--device", default="cpu", help="The Trainer's accelerator.")
    parser.add_argument("--train", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", default=".", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments)
        return
    count, processes = arguments.participants, arguments.processes
    ratios, limits = [], []
    for turn in range(arguments.turns):
        one, many = run(1, count), run(processes, count)
        apart = run(1, -(-count // processes), at_once=processes)
        ratios.append(one / many)
        limits.append(one / apart)
        print(f"turn {turn}: 1 process {one:.3f} s, {processes} {many:.3f} s, apart {apart:.3f} s a round", flush=True)
    print(f"{arguments.work}: {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f}),")
    print(f"  of {statistics.median(limits):.2f} ({min(limits):.2f} to {max(limits):.2f}) without a word between them")


if __name__ == "__main__":
    main()
