"""What the figures have in common: size, letters, colours, and the sentence where matplotlib is missing.

matplotlib is imported where a figure is made, so that a federation runs without it (extra ``plots``), and pyplot never,
whose figures live until somebody closes them.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.5
"""Inches: letters of 9 points stay legible where the figure is as wide as a phone."""

TITLE = 10
"""Points of a title, which has to fit the narrowest figure."""

SMALL = 8
"""Points of ticks and legends."""

DOTS = 120
"""Dots per inch."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5D3A9B", "#8C6D31")
"""Told apart with any colour vision (after Okabe and Ito 2008, Color universal design)."""

LONGEST = 40
"""Letters of a name in a figure."""

GREY = "#666666"

HARM = "#B2182B"

NAMED = 8
"""Up to this many lines are told apart by colours and a legend."""


def available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def need_matplotlib() -> None:
    """Say what to install.

    Raises:
        ModuleNotFoundError: If matplotlib is not there.
    """
    if not available():
        raise ModuleNotFoundError("Figures need matplotlib: pip install 'hetfed-lightning[plots]'.", name="matplotlib")


def empty(title: str, across: str, up: str, *, height: float = 3.2) -> tuple[Figure, Axes]:
    """A figure with one pair of axes and nothing in it.

    Args:
        title: Above it.
        across: What the horizontal axis shows.
        up: What the vertical axis shows.
        height: Inches.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DOTS, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=TITLE)
    axes.set_xlabel(across, fontsize=SMALL + 1)
    axes.set_ylabel(up, fontsize=SMALL + 1)
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def short(name: str) -> str:
    """A name that leaves room for the figure: of a long one the beginning and the end."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 + 1 :]}"


def legend(figure: Figure, axes: Axes) -> None:
    """A legend below the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 1 if max(map(len, labels)) > 24 else 2
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=SMALL, frameon=False)
