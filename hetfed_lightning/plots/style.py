"""Style of all figures: size, letters, colours, and the error where matplotlib is missing.

matplotlib is imported where a figure is made, so that a federation runs without it (extra ``plots``). pyplot is never
imported, since it keeps figures in memory until they are closed.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.5
"""Width of a figure in inches, at which letters of 9 points stay legible on a phone."""

TITLE = 10
"""Size of a title in points; titles have to fit the narrowest figure."""

SMALL = 8
"""Size of ticks and legends in points."""

DOTS = 120
"""Resolution in dots per inch."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5D3A9B", "#8C6D31")
"""Colours that any colour vision tells apart (after Okabe and Ito 2008, Color universal design)."""

LONGEST = 40
"""Most letters of a name in a figure."""

GREY = "#666666"

HARM = "#B2182B"

NAMED = 8
"""Most lines that are told apart by colours and a legend."""


def available() -> bool:
    """True if matplotlib is installed."""
    return find_spec("matplotlib") is not None


def need_matplotlib() -> None:
    """Refuse to draw without matplotlib, with the command that installs it.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    if not available():
        raise ModuleNotFoundError("Figures need matplotlib: pip install 'hetfed-lightning[plots]'.", name="matplotlib")


def empty(title: str, across: str, up: str, *, height: float = 3.2) -> tuple[Figure, Axes]:
    """New figure with one pair of axes and nothing in it.

    Args:
        title: Title above the axes.
        across: Label of the horizontal axis.
        up: Label of the vertical axis.
        height: Height in inches.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
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
    """Name of at most 40 letters; of a longer one the beginning and the end, with an ellipsis between."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 + 1 :]}"


def legend(figure: Figure, axes: Axes) -> None:
    """Add a legend below the axes, where it covers nothing; none for axes without labels.

    Args:
        figure: The figure, which gets the legend.
        axes: The axes with the labelled lines.
    """
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 1 if max(map(len, labels)) > 24 else 2
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=SMALL, frameon=False)
