"""Draws the README's picture: accuracy over the rounds of configs/digits.yaml, with and without the federation.

python scripts/figure.py docs/digits.png
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hetfed_lightning.cli.run import run

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "digits.yaml"
COLOURS = ("tab:blue", "tab:cyan", "tab:orange", "tab:green")


def curves(folder: Path, metric: str) -> dict[str, tuple[list[int], list[float]]]:
    """Rounds and values of every participant's ``metric`` in a run's event files."""
    events = EventAccumulator(str(folder))
    events.Reload()
    found = {}
    for tag in sorted(events.Tags()["scalars"]):
        if tag.startswith(f"{metric}/"):
            points = events.Scalars(tag)
            found[tag.split("/")[1]] = ([point.step for point in points], [point.value for point in points])
    return found


def train(folder: Path, *options: str) -> Path:
    """Run ``hetfed fit`` and return where its events are."""
    arguments = ["fit", "-c", str(CONFIG), "--trainer.logger.init_args.save_dir", str(folder), *options]
    if run(arguments) != 0:
        raise SystemExit(f"hetfed {' '.join(arguments)} failed")
    return next(folder.rglob("events.out.tfevents.*")).parent


def main() -> None:
    """Train both and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as scratch:
        together = train(Path(scratch) / "together")
        alone = train(Path(scratch) / "alone", "--trainer.callbacks", "null")
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
        for axis, metric, title in (
            (axes[0], "val_global_accuracy", "on everyone's digits"),
            (axes[1], "val_accuracy", "on the hospital's own digits"),
        ):
            for folder, style, label in ((together, "-", ""), (alone, "--", " alone")):
                for colour, (name, (rounds, values)) in zip(COLOURS, curves(folder, metric).items(), strict=False):
                    axis.plot(rounds, values, style, color=colour, label=f"{name}{label}", linewidth=1.6)
            axis.set(title=title, xlabel="round", ylim=(0, 1.02))
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(alpha=0.25)
        axes[0].set_ylabel("validation accuracy")
        axes[1].legend(fontsize=8, loc="lower right", ncols=2, frameon=False)
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=110)


if __name__ == "__main__":
    main()
