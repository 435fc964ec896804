"""Attack by rule by number of attackers: what each rule and each ensemble stands, and what it costs if nobody attacks.

python scripts/attacks.py --output runs/attacks --page docs/robustness.md

Digits: ten participants of one small network that share all of it, 1, 2 or 3 of them attacking; the accuracy of the
shared network on everyone's test digits. Hospitals: configs/hospitals.yaml, one of four attacking, another one on each
seed; the honest hospitals' mean balanced accuracy. Teachers: ten that train alone, up to five of them not honest; the
accuracy of a student that learns from their ensemble. Settings were chosen on seeds from 100 on.

Trainings that ``attacks.csv`` in the output folder has already are not made again.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `scripts.attacking`, from wherever this is started

import torch

from scripts.attacking.grid import DATA, Cell, Place, cells
from scripts.attacking.tables import page, tables
from scripts.benchmark.hardware import describe

NOISY = (
    "lightning",
    "lightning.pytorch",
    "lightning.pytorch.utilities.rank_zero",
    "hetfed_lightning",
    "hetfed_lightning.callbacks",
)


def measured(wanted: list[Cell], file: Path) -> dict[Cell, float]:
    """The figure of every cell; those that the file lacks are trained and added to it."""
    found = read(file)
    missing = [cell for cell in wanted if cell not in found]
    place, started = Place(), time.monotonic()
    with file.open("a", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        for done, cell in enumerate(missing):
            found[cell] = place.figure(cell)
            writer.writerow([*cell, f"{found[cell]:.5f}"])
            opened.flush()
            if done % 100 == 99:
                print(f"{done + 1} of {len(missing)}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return {cell: found[cell] for cell in wanted}


def read(file: Path) -> dict[Cell, float]:
    """What an earlier call has measured."""
    if not file.exists():
        return {}
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.reader(opened))
    return {
        Cell(data, attack, rule, int(faulty), int(seed)): float(value)
        for data, attack, rule, faulty, seed, value in rows
    }


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--data", nargs="+", choices=DATA, help="all if not given")
    parser.add_argument("--output", type=Path, default=Path("runs/attacks"))
    parser.add_argument("--page", type=Path, help="a page whose tables are to be made anew, with a CSV")
    options = parser.parse_args()
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    wanted = list(cells(range(options.first, options.first + options.seeds), options.data))
    figures = measured(wanted, options.output / "attacks.csv")
    text = "\n\n".join(tables(figures))
    print(text)
    if options.page:
        machine = f"{os.cpu_count()} cores, {describe('cpu', 1)}"
        options.page.write_text(page(options.page.read_text(encoding="utf-8"), text, machine), encoding="utf-8")
        with options.page.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*Cell._fields, "figure"])
            writer.writerows([*cell, f"{figure:.5f}"] for cell, figure in figures.items())


if __name__ == "__main__":
    main()
