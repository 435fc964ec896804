"""Figure of methods' mean ranks over data sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hetfed_lightning.plots.style import COLOURS, empty, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def mean_ranks(ranks: Mapping[str, float], *, title: str = "Mean rank over data sets") -> Figure:
    """Figure of mean ranks, the best method on top.

    Args:
        ranks: Mean rank by method, 1 for the best.
        title: Title of the figure.

    Raises:
        ValueError: If there is no method.
    """
    if not ranks:
        raise ValueError("mean_ranks: expected at least one method, got none.")
    ordered = sorted(ranks.items(), key=lambda pair: pair[1])
    figure, axes = empty(title, "mean rank (1 is best)", "", height=1.3 + 0.26 * len(ordered))
    for row, (_, rank) in enumerate(ordered):
        axes.plot([rank], [row], "o", color=COLOURS[0], markersize=5)
    axes.set_yticks(range(len(ordered)), labels=[short(name) for name, _ in ordered])
    axes.set_xlim(0.5, len(ordered) + 0.5)
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    return figure
