"""CPU seconds a round of every published method: participants in a fleet beside one after another.

python scripts/method_times.py --repeats 5

Twenty participants of a small network on tabular data of three classes, with a public set. Each training has a round
to warm up; the medians of the others are compared, fleet and sequential in turn within one process, on one thread. A
method of which the ratio is near 1 takes its participants out of fleets, or spends its time elsewhere.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lightning as L
import torch
from torch import nn

from hetfed_lightning import FederatedCallback, FederatedDataModule, Federation, FederationView, Participant, Phase
from hetfed_lightning.cli.known_methods import known_methods
from hetfed_lightning.data import Examples
from hetfed_lightning.methods.method import Method

INPUTS, CLASSES, EXAMPLES, COUNT = 10, 3, 200, 20


class Clock(FederatedCallback):
    """Times at which rounds begin and end."""

    phase = Phase.MONITORING

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def on_round_start(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Note when a round begins."""
        del trainer, federation, round_index
        self._began = time.process_time()

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Note how long it took."""
        del trainer, federation, round_index
        self.seconds.append(time.process_time() - self._began)


def examples(seed: int) -> Examples:
    """Inputs of which the class is where the first three are largest."""
    inputs = torch.randn(EXAMPLES, INPUTS, generator=torch.Generator().manual_seed(seed))
    return Examples(inputs, inputs[:, :CLASSES].argmax(dim=1))


def seconds_of(make: Callable[[], Method], shared: Sequence[str], engine: Any, rounds: int) -> float:
    """Median CPU seconds of a round after the first."""
    members = {}
    for place in range(COUNT):
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Linear(INPUTS, 32), nn.ReLU())
        members[f"p{place:02d}"] = Participant(
            backbone, nn.Linear(32, CLASSES), shared=shared, optimizer=lambda ps: torch.optim.SGD(ps, lr=0.05)
        )
    data = FederatedDataModule(
        {name: examples(place) for place, name in enumerate(members)}, public=examples(999), batch_size=20
    )
    clock = Clock()
    trainer = L.Trainer(
        max_epochs=rounds,
        accelerator="cpu",
        strategy="federated",
        callbacks=[make(), clock],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Federation(members, engine=engine), datamodule=data)
    return statistics.median(clock.seconds[1:])


def main() -> None:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="pairs of fleet and sequential of each method")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of a training, of which the first warms up")
    parser.add_argument("--methods", nargs="+", default=[], help="names as for --method; all published ones by default")
    options = parser.parse_args()
    for noisy in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "hetfed_lightning"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    known = {name: one for name, one in known_methods().items() if ".published." in one.class_path}
    print("| method | fleet, s | sequential, s | ratio |\n| --- | ---: | ---: | ---: |", flush=True)
    for name in options.methods or sorted(known):
        module, _, kind = known[name].class_path.rpartition(".")
        make = getattr(sys.modules[module], kind)
        pairs = [
            tuple(
                seconds_of(make, known[name].shared or ("*",), engine, options.rounds)
                for engine in ("batched", "sequential")
            )
            for _ in range(options.repeats)
        ]
        fleet, alone = (statistics.median(one[place] for one in pairs) for place in (0, 1))
        ratio = statistics.median(one[0] / one[1] for one in pairs)
        print(f"| {kind} | {fleet:.3f} | {alone:.3f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
