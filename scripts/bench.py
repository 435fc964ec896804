"""Seconds of a federated round beside those of a plain PyTorch loop over the same batches.

Both run in one process, a round of one after a round of the other, so that whatever else the machine does hits
both; the ratio of each pair is what counts. The plain loop is what a researcher would write: forward, loss,
backward, step for every participant and batch, then the mean of what they share, weighted by samples. Neither
distils, logs to disk, validates, or saves.

    python scripts/bench.py                          # configs/digits_fedavg.yaml, 20 CNN participants
    python scripts/bench.py --config configs/digits.yaml --rounds 30
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetfed_lightning import BackboneAveraging, Federation
from hetfed_lightning.cli.compare import CompareCLI

ROOT = Path(__file__).resolve().parent.parent


class PlainLoop:
    """Participants, their optimizers and who averages what, in plain PyTorch."""

    def __init__(self, federation: Federation, averaging: BackboneAveraging) -> None:
        self.models: dict[str, nn.ModuleDict] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.groups = averaging.groups
        self.forgets = averaging.optimizer_state == "reset"
        for name, participant in federation.members().items():
            parts = {"backbone": deepcopy(participant.backbone), "head": deepcopy(participant.head)}
            self.models[name] = nn.ModuleDict(parts)
            factory = participant.optimizer_factory or torch.optim.Adam
            self.optimizers[name] = factory(self.models[name].parameters())

    def round(self, batches: list[dict[str, tuple[Tensor, Tensor]]], samples: Mapping[str, int]) -> None:
        """One round: everyone's local steps, then the averages."""
        for batch in batches:
            for name, (inputs, target) in batch.items():
                model, optimizer = self.models[name], self.optimizers[name]
                optimizer.zero_grad()
                F.cross_entropy(model["head"](model["backbone"](inputs)), target).backward()
                optimizer.step()
        for group in self.groups:
            self._average(group.members, group.keys, samples)
        if self.forgets:
            for optimizer in self.optimizers.values():
                optimizer.state.clear()

    @torch.no_grad()
    def _average(self, members: Sequence[str], keys: Sequence[str], samples: Mapping[str, int]) -> None:
        total = sum(samples[name] for name in members)
        states = {name: self.models[name].state_dict() for name in members}
        mean = {key: sum(samples[name] / total * states[name][key] for name in members) for key in keys}
        for name in members:
            self.models[name].load_state_dict(mean, strict=False)


class Interleaved(L.Callback):
    """Times each round of the federation, then the same round by hand."""

    def __init__(self, averaging: BackboneAveraging) -> None:
        self.federated: list[float] = []
        self.plain: list[float] = []
        self._averaging = averaging
        self._started = 0.0
        self._loop: PlainLoop

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Copy the participants for the plain loop."""
        del trainer
        self._loop = PlainLoop(pl_module, self._averaging)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Stop it, and time the same batches by hand."""
        del trainer
        self.federated.append(time.perf_counter() - self._started)
        data = pl_module.federated_data
        samples = {name: data.num_samples(name) for name in pl_module.participants}
        started = time.perf_counter()
        self._loop.round(self._batches(pl_module), samples)
        self.plain.append(time.perf_counter() - started)

    @staticmethod
    def _batches(federation: Any) -> list[dict[str, tuple[Tensor, Tensor]]]:
        """As many batches of the same sizes as the round had, indexed while the clock runs, as in the round."""
        batches: list[dict[str, tuple[Tensor, Tensor]]] = []
        for name in federation.participants:
            source, step = federation.federated_data.source(name), 0
            for _ in range(federation[name].local_epochs):
                for indices in torch.randperm(source.num_samples).split(source.batch_size):
                    if step == len(batches):
                        batches.append({})
                    batches[step][name] = source.dataset.batch(indices)
                    step += 1
        return batches


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "configs" / "digits_fedavg.yaml"))
    parser.add_argument("--rounds", type=int, default=20, help="Timed rounds, after two that warm up.")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    cli = CompareCLI(["-c", options.config, "--threads", str(options.threads)], run=False)
    L.seed_everything(0, verbose=False)
    made = cli.parser.instantiate(cli.config)
    configured = made.trainer.callbacks or []
    averaging = next((one for one in configured if isinstance(one, BackboneAveraging)), None)
    if averaging is None:
        parser.error(f"{options.config} has no BackboneAveraging among its callbacks, so there is nothing to compare.")
    clock = Interleaved(averaging)
    trainer = L.Trainer(
        max_epochs=options.rounds + 2,
        callbacks=[averaging, clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        accelerator="cpu",
    )
    trainer.fit(made.model, datamodule=made.data)
    ratios = [ours / plain for ours, plain in zip(clock.federated[2:], clock.plain[2:], strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    sys.stdout.write(
        f"{Path(options.config).name}: {len(made.model.participants)} participants, {options.rounds} rounds, "
        f"{options.threads} thread(s), torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores\n"
        f"federated round  {statistics.median(clock.federated[2:]):.3f} s (median)\n"
        f"plain loop       {statistics.median(clock.plain[2:]):.3f} s (median)\n"
        f"ratio            {quartiles[1]:.3f} (median of pairs), quartiles {quartiles[0]:.3f} to {quartiles[2]:.3f}\n"
    )


if __name__ == "__main__":
    main()
