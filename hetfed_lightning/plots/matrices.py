"""Figures of matrices: label distribution, confusion of classes, agreement of teachers.

Pure drawing, without Lightning and without pyplot's global state. matplotlib is imported where a figure is made, so
that a federation runs without it (extra ``plots``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hetfed_lightning.plots.style import DOTS, TITLE, need_matplotlib, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ANNOTATED = 16
"""Most rows and columns with a number in every cell; larger matrices have a scale of colours."""

CELL = 0.36
"""Width of a cell in inches: room for three digits."""

NAMED = 40
"""Most rows with a participant's name beside each."""


def label_distribution(counts: Mapping[str, ArrayLike]) -> Figure:
    """Figure of the training examples of every class at every participant, a row per participant.

    Args:
        counts: Examples per class by participant, shape ``(C,)`` each, at least one participant; C may differ, and
            missing classes stay white.

    Returns:
        A figure whose colours grow with the square root, so that rare classes are seen beside frequent ones.

    Raises:
        ValueError: If there is no participant.
    """
    if not counts:
        raise ValueError("label_distribution: expected the counts of at least one participant, got none.")
    rows = [np.asarray(row, dtype=float) for row in counts.values()]
    table = np.full((len(rows), max(map(len, rows))), np.nan)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    need_matplotlib()
    from matplotlib.colors import PowerNorm

    norm = PowerNorm(0.5, vmin=0, vmax=max(1.0, float(np.nanmax(table))))
    figure = _matrix(
        table, list(counts), None, norm=norm, bar="examples", form=lambda value: f"{value:.0f}" if value else ""
    )
    axes = figure.axes[0]
    axes.set_title("Training examples per class", fontsize=TITLE)
    axes.set_xlabel("class")
    return figure


def confusion_matrix(matrix: ArrayLike, *, name: str, where: str) -> Figure:
    """Figure of a participant's confusion matrix: true class down, predicted class across.

    Args:
        matrix: Examples by true and predicted class, shape ``(C, C)``.
        name: The participant.
        where: Name of the data set, such as ``"own validation set"``.

    Returns:
        A figure coloured by the share of each true class, with the numbers of examples in the cells.

    Raises:
        ValueError: If the matrix is not square.
    """
    counts = _square(matrix)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    figure = _matrix(
        shares, None, None, bar="share of the true class", square=True, shown=counts,
        form=lambda value: f"{value:.0f}" if value else "",
    )  # fmt: skip
    axes = figure.axes[0]
    accuracy = f", {np.trace(counts) / counts.sum():.1%} right" if counts.sum() else ""
    axes.set_title(f"{short(name)}\n{short(where)}\n{counts.sum():.0f} examples{accuracy}", fontsize=TITLE)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    return figure


def teacher_agreement(names: Sequence[str], matrix: ArrayLike) -> Figure:
    """Figure of the agreement of every teacher with every other on the public set.

    Args:
        names: The K teachers.
        matrix: Agreement, shape ``(K, K)``: a share in [0, 1], or a correlation in [-1, 1].

    Returns:
        A figure on a scale from 0 to 1, from -1 where a value is negative.

    Raises:
        ValueError: If the matrix is not square, or there is not one name per row.
    """
    values = _square(matrix)
    if len(names) != len(values):
        raise ValueError(f"teacher_agreement: expected {len(values)} names, one per row, got {len(names)}.")
    need_matplotlib()
    from matplotlib.colors import Normalize

    norm = Normalize(-1.0 if (values < 0).any() else 0.0, 1.0)
    figure = _matrix(values, names, names, norm=norm, bar="agreement", square=True, form=lambda value: f"{value:.2f}")
    figure.axes[0].set_title("Agreement of the teachers\non the public set", fontsize=TITLE)
    return figure


def _square(matrix: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.size:
        raise ValueError(f"expected a square matrix, got shape {values.shape}.")
    return values


def _matrix(
    values: NDArray[np.float64],
    rows: Sequence[str] | None,
    columns: Sequence[str] | None,
    *,
    bar: str,
    form: Any,
    norm: Any = None,
    square: bool = False,
    shown: NDArray[np.float64] | None = None,
) -> Figure:
    """A matrix in colours, with ``shown`` (or the values) in the cells where there is room."""
    need_matplotlib()
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    height, width = values.shape
    annotated = max(height, width) <= ANNOTATED
    # TensorBoard shows pictures some 350 pixels wide: the fewer inches, the larger the letters.
    longest = max((len(short(name)) for name in rows or ()), default=0)
    figure = Figure(
        figsize=(
            float(np.clip(CELL * width, 2.8, 7.0)) + 0.6 + 0.07 * longest + 0.8 * (not annotated),
            float(np.clip(CELL * height, 2.8 if square else 0.7, 7.0)) + 0.9,
        ),
        dpi=DOTS,
        layout="constrained",
    )
    axes = figure.add_subplot()
    norm = norm or Normalize(0, 1)
    image = axes.imshow(values, cmap="Blues", norm=norm, aspect="equal" if square else "auto", interpolation="nearest")
    _name(axes.yaxis, rows, height)
    _name(axes.xaxis, columns, width)
    if columns is not None and sum(map(len, columns)) > 10 * CELL * width:
        axes.tick_params(axis="x", labelrotation=90)
    if not annotated:
        figure.colorbar(image, ax=axes, label=bar, fraction=0.05, pad=0.03)
        return figure
    cells = values if shown is None else shown
    for row, column in np.argwhere(np.isfinite(values)):
        color = "white" if float(norm(values[row, column])) > 0.6 else "black"
        axes.text(column, row, form(cells[row, column]), ha="center", va="center", fontsize=9, color=color)
    return figure


def _name(axis: Any, names: Sequence[str] | None, count: int) -> None:
    from matplotlib.ticker import MaxNLocator

    if names is None:
        if count <= ANNOTATED:
            axis.set_ticks(range(count))
        else:
            axis.set_major_locator(MaxNLocator(integer=True))
        return
    step = -(-count // NAMED)
    axis.set_ticks(range(0, count, step), labels=[short(name) for name in names[::step]])
