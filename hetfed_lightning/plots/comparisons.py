"""Figures of comparisons: own data against everyone's, and the federation against training alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hetfed_lightning.intervals import Interval
from hetfed_lightning.plots.style import COLOURS, GREY, HARM, NAMED, SMALL, empty, legend, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 40
"""Most participants with a row of their own; beyond them the lowest and the highest alone are drawn."""

MARKERS = ("o", "s", "^", "D")
"""Markers of the kinds of training, in order."""


def own_against_global(points: Mapping[str, Mapping[str, tuple[float, float]]], *, metric: str) -> Figure:
    """Figure of every participant's metric on its own data (across) and on everyone's (up).

    Args:
        points: (own, global) by kind of training, such as ``"federation"`` and ``"local only"``, and participant.
        metric: Name of the metric.

    Raises:
        ValueError: If there is no point.
    """
    if not any(points.values()):
        raise ValueError("own_against_global: expected at least one participant with both figures, got none.")
    figure, axes = empty(f"{metric}: own data against everyone's", f"own {metric}", f"global {metric}", height=3.6)
    for index, (arm, found) in enumerate(points.items()):
        axes.scatter(
            [own for own, _ in found.values()], [everyone for _, everyone in found.values()],
            s=26, color=COLOURS[index % len(COLOURS)], marker=MARKERS[index % len(MARKERS)], alpha=0.85, label=arm,
        )  # fmt: skip
    low, high = axes.get_xlim()
    axes.axline((low, low), slope=1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xlim(low, high)
    first = next(iter(points.values()))
    for name, place in first.items() if len(first) <= NAMED else ():
        axes.annotate(short(name), place, xytext=(4, 4), textcoords="offset points", fontsize=SMALL - 1)
    axes.margins(0.12)
    legend(figure, axes)
    return figure


def gain(intervals: Mapping[str, Interval], *, metric: str, title: str = "") -> Figure:
    """Figure of every participant's gain by the federation over training alone, with intervals over seeds.

    Args:
        intervals: Mean gain by participant, in the metric's unit, positive where the federation is better.
        metric: Name of the metric.
        title: Title of the figure; names the metric by default.

    Raises:
        ValueError: If there is no participant.
    """
    if not intervals:
        raise ValueError("gain: expected the gain of at least one participant, got none.")
    names = list(intervals)
    if len(names) > ROWS:
        ordered = sorted(names, key=lambda name: intervals[name].mean)
        names = ordered[: ROWS // 2] + ordered[-ROWS // 2 :]
    height = 1.3 + 0.26 * len(names)
    figure, axes = empty(title or f"Gain over local only: {metric}", f"gain in {metric}", "", height=height)
    axes.axvline(0, color="black", linewidth=0.8)
    for row, name in enumerate(names):
        one = intervals[name]
        color = HARM if one.mean < 0 else COLOURS[0]
        if one.known:
            axes.plot([one.low, one.high], [row, row], color=color, linewidth=2, alpha=0.6, solid_capstyle="butt")
        axes.plot([one.mean], [row], "o", color=color, markersize=5)
    axes.set_yticks(range(len(names)), labels=list(map(short, names)))
    axes.set_ylim(len(names) - 0.4, -0.6)
    return figure


def residuals(samples: Mapping[str, tuple[list[float], list[float]]], *, where: str) -> Figure:
    """Figure of predicted against true values, in a colour per participant.

    Args:
        samples: (true, predicted) by participant, N values each, in each one's own unit.
        where: Name of the data set, such as ``"own validation set"``.

    Raises:
        ValueError: If there is no participant.
    """
    if not samples:
        raise ValueError("residuals: expected the values of at least one participant, got none.")
    figure, axes = empty(f"Predicted against true\n{short(where)}", "true value", "predicted value", height=3.7)
    for index, (name, (true, predicted)) in enumerate(samples.items()):
        color = COLOURS[index] if index < NAMED else GREY
        label = short(name) if index < NAMED else None
        axes.scatter(true, predicted, s=7, color=color, alpha=0.55, linewidths=0, label=label)
    values = [value for true, _ in samples.values() for value in true]
    middle = sum(values) / len(values) if values else 0.0
    axes.axline((middle, middle), slope=1, color="black", linewidth=0.9, linestyle="--")
    legend(figure, axes)
    return figure
