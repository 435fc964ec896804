"""Figures over rounds: a metric of every participant, and the bytes that travelled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hetfed_lightning.plots.style import COLOURS, GREY, NAMED, empty, legend, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]
"""Pairs (round, value) in the order of rounds."""

DASHES = ("--", ":", "-.")
"""Line styles of references, in order."""


def over_rounds(
    series: Mapping[str, Points], *, metric: str, title: str = "", references: Mapping[str, Points] | None = None
) -> Figure:
    """Figure of a metric over rounds, a line per participant.

    Args:
        series: Points by participant. Of more than eight the lines are grey, and their mean is drawn in colour.
        metric: Name of the metric, the vertical axis.
        title: Title of the figure; the metric by default.
        references: Points by name to compare with, such as the means of local only and of centralised training; dashed.

    Raises:
        ValueError: If there is no participant.
    """
    if not series:
        raise ValueError("over_rounds: expected the points of at least one participant, got none.")
    figure, axes = empty(title or metric, "round", metric, height=3.4)
    few = len(series) <= NAMED
    for index, (name, points) in enumerate(series.items()):
        rounds, values = [point[0] for point in points], [point[1] for point in points]
        marker = "o" if len(rounds) == 1 else ""
        if few:
            axes.plot(rounds, values, color=COLOURS[index], linewidth=1.4, marker=marker, label=short(name))
        else:
            axes.plot(rounds, values, color=GREY, linewidth=0.6, alpha=0.5)
    if not few:
        mean = mean_over(list(series.values()))
        axes.plot(*zip(*mean, strict=True), color=COLOURS[0], linewidth=1.8, label=f"mean of {len(series)}")
    for (name, points), dash in zip((references or {}).items(), DASHES * len(references or {}), strict=False):
        if points:
            axes.plot(*zip(*points, strict=True), color="black", linewidth=1.2, linestyle=dash, label=name)
    _whole_rounds(axes)
    legend(figure, axes)
    return figure


def bytes_per_round(up: Points, down: Points) -> Figure:
    """Figure of the bytes sent to and from the participants in every round.

    Args:
        up: Bytes from all participants, by round.
        down: Bytes to all participants, by round.
    """
    largest = max((value for _, value in [*up, *down]), default=0.0)
    unit, size = next((pair for pair in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if largest >= pair[1]), ("B", 1.0))
    figure, axes = empty("Bytes per round, all participants", "round", unit, height=3.0)
    for name, points, color, dash in (("up", up, COLOURS[0], "-"), ("down", down, COLOURS[1], "--")):
        marker = "o" if len(points) == 1 else ""
        values = [value / size for _, value in points]
        axes.plot([place for place, _ in points], values, color=color, linestyle=dash, marker=marker, label=name)
    axes.set_ylim(bottom=0)
    _whole_rounds(axes)
    legend(figure, axes)
    return figure


def mean_over(lines: Sequence[Points]) -> list[tuple[float, float]]:
    """Mean of several lines, as points, at every round at which any of them has a value."""
    found: dict[float, list[float]] = {}
    for line in lines:
        for place, value in line:
            if not math.isnan(value):
                found.setdefault(place, []).append(value)
    return [(place, sum(values) / len(values)) for place, values in sorted(found.items())]


def _whole_rounds(axes: object) -> None:
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator

    if isinstance(axes, Axes):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
