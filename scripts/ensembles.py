"""What an ensemble teaches: both columns, its targets round by round, public sets that are small or strange, and liars.

python scripts/ensembles.py -c configs/digits.yaml --arms alone 'as configured' 'true classes' --seeds 10 11 12
python scripts/ensembles.py -c configs/digits.yaml --seeds 10 11 12 --picture docs/ensembles.png

Without ``--arms`` all are trained. Figures are of test images after the last round: ``global`` is the mean accuracy of
the participants on everyone's (of the student where there is one), ``worst`` the lowest of them, ``own`` that on each
participant's own images, averaged over images, ``lowest`` that of the worst participant, ``targets`` the share of
public images whose target is their class, in the last round. Differences are paired by seed, to "alone" unless
``--against`` names another arm. Trainings that ``ensembles.csv`` in the output folder has already are not made again;
seconds are of CPU, one thread each.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `scripts.ensembling`, from wherever this is started

import lightning as L
import torch

from hetfed_lightning import EnsembleDistillation
from hetfed_lightning.cli.compare import CompareCLI
from hetfed_lightning.data import Examples
from hetfed_lightning.federated_callback import FederatedCallback
from hetfed_lightning.participants.participant import STUDENT
from scripts.ensembling.arms import ARMS, Arm, settle, watched, with_public

FIGURES = ("global", "worst", "own", "lowest", "targets", "seconds")
Row = dict[str, Any]


def trained(cli: CompareCLI, arm: Arm, seed: int) -> Row:
    """Figures of one training, and those of its targets by round.

    Args:
        cli: With the configuration.
        arm: What is changed.
        seed: Of weights, split and batches.
    """
    config = cli.config.clone()
    config.seed_everything = config.model.seed = config.data.init_args.seed = seed
    settle(arm, config)
    L.seed_everything(seed, verbose=False)
    made = cli.parser.instantiate(config)
    federation, data = made.model, made.data
    names = tuple(federation.participants)
    own_data = with_public(arm, data.load(names))
    public = own_data.public  # The module drops its classes.
    data.replace_data(own_data)
    together: list[L.Callback] = [one for one in made.trainer.callbacks or [] if isinstance(one, FederatedCallback)]
    targets: list[float] = []
    for one in together:
        if isinstance(one, EnsembleDistillation) and isinstance(public, Examples) and public.targets is not None:
            targets = watched(one, arm, public.targets, names)
    if arm.distillation is None:
        together = [one for one in together if arm.averages and not isinstance(one, EnsembleDistillation)]
        if federation.student is not None:
            federation.drop(STUDENT)
    trainer = L.Trainer(
        max_epochs=config.trainer.max_epochs,
        accelerator="cpu",
        strategy="federated",
        callbacks=together,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    began = time.process_time()
    trainer.fit(federation, datamodule=data)
    seconds = time.process_time() - began
    trainer.test(federation, datamodule=data, verbose=False)
    found = {key: float(value) for key, value in trainer.callback_metrics.items()}
    own = {name: found[f"test_accuracy/{name}"] for name in names if f"test_accuracy/{name}" in found}
    sizes = {name: len(data.data.test[name]) for name in own}
    everyone = [found[f"test_global_accuracy/{name}"] for name in names]
    if federation.student is not None:
        everyone = [found[f"test_global_accuracy/{STUDENT}"]]
    return {
        "global": mean(everyone),
        "worst": min(everyone),
        "own": sum(own[name] * sizes[name] for name in own) / sum(sizes.values()),
        "lowest": min(own.values()),
        "targets": targets[-1] if targets else float("nan"),
        "seconds": seconds,
        "by round": " ".join(f"{one:.4f}" for one in targets),
        "by participant": " ".join(f"{name}:{sizes[name]}:{one:.4f}" for name, one in own.items()),
    }


def measured(cli: CompareCLI, arms: Sequence[str], seeds: Sequence[int], file: Path) -> dict[tuple[str, int], Row]:
    """Rows by arm and seed; those that the file lacks are trained and added to it."""
    known: dict[tuple[str, int], Row] = {}
    if file.exists():
        with file.open(newline="", encoding="utf-8") as opened:
            for row in csv.DictReader(opened):
                numbers = {key: float(row[key]) for key in FIGURES}
                known[row["arm"], int(row["seed"])] = {**row, **numbers}
    for seed in seeds:
        for arm in arms:
            if (arm, seed) in known:
                continue
            known[arm, seed] = row = trained(cli, ARMS[arm], seed)
            is_new = not file.exists()
            with file.open("a", newline="", encoding="utf-8") as opened:
                writer = csv.DictWriter(opened, ["arm", "seed", *row])
                if is_new:
                    writer.writeheader()
                writer.writerow({"arm": arm, "seed": seed, **row})
            print(arm, seed, " ".join(f"{key} {row[key]:.3f}" for key in FIGURES), file=sys.stderr, flush=True)
    return {(arm, seed): known[arm, seed] for arm in arms for seed in seeds}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation; nothing of an arm without targets."""
    if any(map(math.isnan, values)):
        return ""
    return f"{mean(values):.3f} +- {stdev(values) if len(values) > 1 else 0:.3f}"


def table(rows: Mapping[tuple[str, int], Row], arms: Sequence[str], seeds: Sequence[int], against: str) -> str:
    """Means over the seeds, and paired differences to an arm."""
    lines = ["| | " + " | ".join([*FIGURES, "global over", "own over"]) + " |", "|---" * (len(FIGURES) + 3) + "|"]
    for arm in arms:
        cells = [spread([rows[arm, seed][key] for seed in seeds]) for key in FIGURES]
        for key in ("global", "own"):
            paired = [rows[arm, seed][key] - rows[against, seed][key] for seed in seeds] if against in arms else []
            cells.append(f"{mean(paired):+.3f} +- {stdev(paired) if len(paired) > 1 else 0:.3f}" if paired else "")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def losses(rows: Mapping[tuple[str, int], Row], arm: str, against: str, seeds: Sequence[int], least: int) -> str:
    """How many pairs of participant and seed lost and won own accuracy, and the largest loss of a large test set."""
    lost = won = 0
    largest, count = 0.0, 0
    for seed in seeds:
        sides = []
        for side in (arm, against):
            parts = (one.split(":") for one in rows[side, seed]["by participant"].split())
            sides.append({name: (int(size), float(value)) for name, size, value in parts})
        for name, (size, value) in sides[0].items():
            difference = value - sides[1][name][1]
            lost, won = lost + (difference < -1e-6), won + (difference > 1e-6)
            if size > least:
                count, largest = count + 1, min(largest, difference)
    return (
        f"{arm} over {against}: {won} pairs won, {lost} lost; largest loss of the {count} with more than {least} own "
        f"test images {largest:+.3f}"
    )


def draw(
    rows: Mapping[tuple[str, int], Row], arms: Sequence[str], seeds: Sequence[int], rounds: int, file: Path
) -> None:
    """Share of targets that are right by round, a line for each arm that has some, mean over the seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for arm in arms:
        curves = [[float(one) for one in rows[arm, seed]["by round"].split()] for seed in seeds]
        if curves and curves[0]:
            middle = torch.tensor(curves).mean(dim=0).tolist()
            axis.plot(range(rounds - len(middle) + 1, rounds + 1), middle, label=arm, linewidth=1.6)
    axis.set(xlabel="round", ylabel="share of targets that are right", ylim=(0, 1.02))
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=130)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, default=Path("configs/digits.yaml"))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--against", choices=list(ARMS), default="alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10, 20)))
    parser.add_argument("--set", nargs="+", default=[], help="further options, such as data.init_args.public_size=100")
    parser.add_argument("--output", type=Path, default=Path("runs/ensembles"))
    parser.add_argument("--picture", type=Path, help="a picture of the targets by round")
    options = parser.parse_args()
    for noisy in ("lightning", "lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "hetfed_lightning"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    extra = [part for one in options.set for part in f"--{one.lstrip('-')}".split("=", 1)]
    cli = CompareCLI(["-c", str(options.config), *extra], run=False)
    rows = measured(cli, options.arms, options.seeds, options.output / "ensembles.csv")
    print(f"{options.config}, seeds {' '.join(map(str, options.seeds))}; {os.cpu_count()} cores\n")
    print(table(rows, options.arms, options.seeds, options.against))
    for arm in options.arms:
        if options.against in options.arms and arm != options.against:
            print(losses(rows, arm, options.against, options.seeds, 60))
    if options.picture is not None:
        draw(rows, options.arms, options.seeds, cli.config.trainer.max_epochs, options.picture)


if __name__ == "__main__":
    main()
