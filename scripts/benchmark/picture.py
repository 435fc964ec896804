"""Draws the benchmark's picture: seconds of a round through those of the plain loop, a group of bars per workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

PLAIN = "plain"
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown")


def draw(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Draw the rows of a CSV file.

    Args:
        rows: As :func:`~scripts.benchmark.report.read_csv` gives them.
        path: The picture, of a kind that matplotlib writes.
    """
    measured = [row for row in rows if row["ratio"] and row["program"] != PLAIN]
    workloads = list(dict.fromkeys(row["workload"] for row in measured))
    programs = list(dict.fromkeys(row["program"] for row in measured))
    width = 0.8 / max(1, len(programs))
    figure, axis = plt.subplots(figsize=(9, 3.4), layout="constrained")
    for index, program in enumerate(programs):
        own = [row for row in measured if row["program"] == program]
        places = [workloads.index(row["workload"]) + (index - (len(programs) - 1) / 2) * width for row in own]
        middle = [float(row["ratio"]) for row in own]
        spread = [[abs(float(row["ratio"]) - float(row[edge])) for row in own] for edge in ("ratio_q1", "ratio_q3")]
        # From the plain loop's line: what is faster hangs, what is slower stands.
        heights = [ratio - 1 for ratio in middle]
        axis.bar(places, heights, width, bottom=1, yerr=spread, label=program, color=COLOURS[index % len(COLOURS)])
    axis.axhline(1, color="black", linewidth=1)
    axis.set_yscale("log")
    ratios = [1.0, *(float(row["ratio"]) for row in measured)]
    ticks = [tick for tick in TICKS if min(ratios) / 2 < tick < max(ratios) * 2]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xticks(range(len(workloads)), workloads)
    axis.set_ylabel("time / plain loop (below 1: faster)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)
    axis.legend(fontsize=8, frameon=False, ncols=len(programs))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
