"""Pages, pictures and charts of a run in TensorBoard, alike for a fit and for a coordinator between institutions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import lightning as L

from hetfed_lightning import plots
from hetfed_lightning.callbacks.participant_summary import Role
from hetfed_lightning.callbacks.tensorboard_pages import (
    Layout,
    chart_layout,
    configuration_page,
    participants_table,
    sharing_page,
)
from hetfed_lightning.logs.metric_store import QUARANTINED
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

CONFIG = "config"
"""Tag of the page with the run's configuration."""

LABELS = "federation/label_distribution"
"""Tag of the picture of training examples by class and participant."""


class Board(Protocol):
    """Writer of pages and pictures."""

    def page(self, name: str, text: str, step: int) -> None:
        """Write a page of Markdown.

        Args:
            name: Tag of the page.
            text: The page.
            step: Number of rounds that have been trained.
        """

    def picture(self, name: str, content: object, draw: Callable[[], Figure], step: int) -> None:
        """Write a picture.

        Args:
            name: Tag of the picture.
            content: Data of the picture.
            draw: Function that draws it.
            step: Number of rounds that have been trained.
        """


class SummaryBoard:
    """Board of a ``TensorBoardLogger``.

    Args:
        writer: The logger's ``experiment``.
    """

    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer

    def page(self, name: str, text: str, step: int) -> None:
        """Write a page of Markdown; arguments as for :class:`Board`."""
        self._writer.add_text(name, text, step)

    def picture(self, name: str, content: object, draw: Callable[[], Figure], step: int) -> None:
        """Write a picture; arguments as for :class:`Board`."""
        del content
        self._writer.add_figure(name, draw(), step)


class Charts:
    """Charts of the page "Custom Scalars" over a run; further ones appear with further tags.

    Args:
        tags: Tags that are logged already.
    """

    def __init__(self, tags: Iterable[str] = ()) -> None:
        self._tags = set(tags)
        self._drawn_for: tuple[int, tuple[str, ...]] = (0, ())
        self._layout: Layout = {}

    def add(self, tags: Iterable[str]) -> None:
        """Add logged tags. Those of quarantine, 0 or 1 in each round, get no chart."""
        self._tags |= {key for key in tags if not key.startswith(f"{QUARANTINED}/")}

    def changed(self, names: Sequence[str]) -> Layout | None:
        """Layout of the page if it is another than at the last call, else None.

        Args:
            names: The participants, and the student if there is one, with a line each.
        """
        drawn_for = len(self._tags), tuple(names)
        if drawn_for == self._drawn_for:
            return None
        self._drawn_for = drawn_for
        layout = chart_layout(self._tags, names)
        if layout == self._layout:
            return None
        self._layout = layout
        return layout


def introduce(
    board: Board,
    roles: Iterable[Role],
    total: int,
    *,
    config: str | None,
    callbacks: Iterable[L.Callback],
    label_counts: Mapping[str, Any],
    step: int,
) -> None:
    """Write the participants, the run's configuration, who averages what with whom, and the label distributions.

    Args:
        board: Writer of pages and pictures.
        roles: Roles of the first participants.
        total: Number of all participants.
        config: The run's configuration as YAML; without one there is no such page.
        callbacks: Callbacks of the run, whose averages have their groups by now.
        label_counts: Training examples by class, by name; no picture if it is empty.
        step: Number of rounds that have been trained.
    """
    board.page("federation/participants", participants_table(roles, total), step)
    if config:
        board.page(CONFIG, configuration_page(config), step)
    reports = [one.report for one in callbacks if isinstance(one, BackboneAveraging) and one.report]
    if reports:
        board.page("federation/sharing", sharing_page(reports), step)
    if label_counts:
        board.picture(LABELS, label_counts, lambda: plots.label_distribution(label_counts), step)


def agreement_of(callbacks: Iterable[L.Callback]) -> dict[str, Any]:
    """Agreement of K teachers in the last round that distilled, ``{"names": [...], "matrix": [[...]]}``; empty if none.

    Args:
        callbacks: Callbacks of the run; of several distillations the last one counts.
    """
    found: dict[str, Any] = {}
    for callback in callbacks:
        if isinstance(callback, EnsembleDistillation) and callback.agreement is not None:
            names, matrix = callback.agreement
            found = {"names": list(names), "matrix": matrix.tolist()}
    return found


def show_agreement(board: Board, found: Mapping[str, Any], step: int) -> None:
    """Write the teachers' agreement, if there is any.

    Args:
        board: Writer of pages and pictures.
        found: Result of :func:`agreement_of`.
        step: Number of rounds that have been trained.
    """
    if found:
        board.picture(
            "federation/teacher_agreement_matrix",
            found,
            lambda: plots.teacher_agreement(found["names"], found["matrix"]),
            step,
        )


def has_pictures() -> bool:
    """True if pictures can be drawn; else a line of the log says what they need."""
    if plots.available():
        return True
    log.info("No pictures for TensorBoard: they need matplotlib (pip install 'hetfed-lightning[plots]').")
    return False
