"""What sharing the image backbone buys hospitals of configs/image_and_genes.yaml (simulated patients).

python scripts/image_and_genes.py --seeds 10 11 12 13 14 15 16 17 18 19 --csv image_and_genes.csv

Trains the federation, the same with averaging alone (no distillation), every hospital by itself with the same settings
and budget, and the smallest by itself with eight times the passes over its data, on each seed. Prints accuracy on 1,000
test patients of each hospital beside the accuracy that no classifier of its inputs exceeds. The seed draws patients,
weights and batches; the disease and the panels stay.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from scipy.stats import t as student_t

from hetfed_lightning.cli.compare import CompareCLI
from hetfed_lightning.cli.outcomes import Arm, Outcome, spread
from hetfed_lightning.cli.tables import Table
from hetfed_lightning.showcases import ImageAndGenesDataModule

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "image_and_genes.yaml"
AVERAGING = '[{"class_path": "hetfed_lightning.BackboneAveraging"}]'
SMALL = "village"
OTHERS = ("university", "city", "radiology", "island", "laboratory")
PATIENCE = (
    f"--model.participants.{SMALL}.init_args.local_epochs=16",
    f"--model.participants.{SMALL}.init_args.branch_dropout=0",
    *(f"--model.participants.{name}.init_args.step_budget=1" for name in OTHERS),
)
"""Eight times the passes over its 50 patients, and all genes at every step; the others are not looked at."""
WAYS: dict[str, tuple[Arm, tuple[str, ...]]] = {
    "local only": ("local_only", ()),
    "alone, 8x passes": ("local_only", PATIENCE),
    "averaging": ("federation", ("--trainer.callbacks", AVERAGING)),
    "federation": ("federation", ()),
}
"""Ways to train: the arm of ``hetfed compare``, and the options that make it."""

Found = dict[tuple[str, str], list[float]]
"""Accuracies in the order of the seeds, by way and hospital."""


def train(seeds: Sequence[int], options: Sequence[str]) -> tuple[Found, ImageAndGenesDataModule]:
    """Accuracy of every hospital on its own test patients, and the data that has the Bayes accuracies."""
    commands = {
        way: CompareCLI(["-c", str(CONFIG), "--arms", "[federation, local_only]", *own, *options], run=False)
        for way, (_, own) in WAYS.items()
    }
    command = next(iter(commands.values()))
    data = command.parser.instantiate(command.config.clone()).data
    if not isinstance(data, ImageAndGenesDataModule):
        raise TypeError(f"{CONFIG.name}: expected an ImageAndGenesDataModule, got {type(data).__name__}.")
    found: Found = {}
    for seed in seeds:
        for way, (arm, _) in WAYS.items():
            outcomes: list[Outcome] = commands[way].run_arm(arm, seed)
            outcomes = [one for one in outcomes if way != "alone, 8x passes" or one.participant == SMALL]
            for one in outcomes:
                found.setdefault((way, one.participant), []).append(one.own)
            print(
                f"seed {seed}  {way:<10}  " + "  ".join(f"{one.participant} {one.own:.3f}" for one in outcomes),
                flush=True,
            )
    return found, data


def inputs_of(data: ImageAndGenesDataModule, name: str) -> str:
    """What a hospital knows of its patients, in words."""
    hospital = data.hospitals[name]
    parts = (["image"] if hospital.image else []) + ([f"{hospital.genes} genes"] if hospital.genes else [])
    return " + ".join(parts)


def interval(gains: Sequence[float]) -> str:
    """Mean of paired gains with its 95 % interval (Student's t over seeds) and standard deviation."""
    mean = statistics.fmean(gains)
    if len(gains) == 1:
        return f"{mean:+.3f}"
    deviation = statistics.stdev(gains)
    half = float(student_t.ppf(0.975, len(gains) - 1)) * deviation / math.sqrt(len(gains))
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}], sd {deviation:.3f}"


def table(found: Found, data: ImageAndGenesDataModule, bayes: dict[str, float]) -> Table:
    """A row for each hospital."""
    header = ["hospital", "knows", "patients", *WAYS, "Bayes", "distance", "federation - local only [95 %]"]
    rows = []
    for name in data.hospitals:
        own = {way: found.get((way, name), []) for way in WAYS}
        gains = [one - other for one, other in zip(own["federation"], own["local only"], strict=True)]
        distance = bayes[name] - statistics.fmean(own["federation"])
        rows.append([
            name, inputs_of(data, name), str(data.hospitals[name].patients), *map(spread, own.values()),
            f"{bayes[name]:.3f}", f"{distance:.3f}", interval(gains),
        ])  # fmt: skip
    return Table(header, rows)


def write(
    found: Found, data: ImageAndGenesDataModule, bayes: dict[str, float], seeds: Sequence[int], path: Path
) -> None:
    """A row for every seed, way and hospital."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "way", "hospital", "knows", "patients", "accuracy", "bayes_accuracy"])
        for (way, name), accuracies in found.items():
            for seed, accuracy in zip(seeds, accuracies, strict=True):
                known = (inputs_of(data, name), data.hospitals[name].patients)
                writer.writerow([seed, way, name, *known, f"{accuracy:.4f}", f"{bayes[name]:.4f}"])


def main() -> None:
    """Train, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10, 20)))
    parser.add_argument("--csv", type=Path, help="File to write.")
    options, rest = parser.parse_known_args()  # What is left goes to the configuration, as to `hetfed`.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    found, data = train(options.seeds, rest)
    exact = {name: data.bayes_accuracy(name) for name in data.hospitals}
    bayes = {name: one.value for name, one in exact.items()}
    print(f"\n{table(found, data, bayes).text()}")
    for way in ("local only", "alone, 8x passes"):
        gains = [a - b for a, b in zip(found["federation", SMALL], found[way, SMALL], strict=True)]
        print(f"\n{SMALL}: federation - {way}: {interval(gains)} ({len(gains)} seeds)", end="")
    print(f"\n\nBayes: standard error at most {max(one.standard_error for one in exact.values()):.4f}.")
    if options.csv:
        write(found, data, bayes, options.seeds, options.csv)


if __name__ == "__main__":
    main()
