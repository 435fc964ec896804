"""What a coordinator shows in TensorBoard: rows of numbers, charts of them, pages of text and pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hetfed_lightning import plots
from hetfed_lightning.callbacks.pages import Layout, chart_layout
from hetfed_lightning.flower.event_file import EventFile
from hetfed_lightning.ledger import tag

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

_FLAGS = tag("quarantined", "")


class Board:
    """Events of one process, which go on with those of an earlier one; nothing is written before :meth:`save`.

    Args:
        folder: Where TensorBoard looks for them.
        first_round: The round that comes next, from 0; what the folder has of it and of later ones is forgotten.
        tags: What earlier rounds have logged, which has its charts.
    """

    def __init__(self, folder: Path, first_round: int, tags: Iterable[str]) -> None:
        before = any(folder.glob("*tfevents*"))
        self._events = EventFile(folder, purge_step=first_round + 1 if before else None)
        self._tags = set(tags)
        self._laid_out: Layout = {}
        self._shown: dict[str, object] = {}
        if not plots.available():
            log.info("No pictures for TensorBoard: they need matplotlib (pip install 'hetfed-lightning[plots]').")

    def row(self, values: Mapping[str, float], step: int, names: Sequence[str]) -> None:
        """Add a round's numbers, and lay out the charts where others turn up.

        Args:
            values: By tag.
            step: The horizontal axis: rounds that have been trained.
            names: The participants, who have a line each.
        """
        self._events.scalars(values, step)
        self._tags |= {key for key in values if not key.startswith(_FLAGS)}
        layout = chart_layout(self._tags, names)
        if layout != self._laid_out:
            self._laid_out = layout
            self._events.layout(layout)

    def page(self, name: str, text: str, step: int) -> None:
        """Add a page of Markdown, unless there is none or it stands there."""
        if text and self._is_new(name, text):
            self._events.text(name, text, step)

    def picture(self, name: str, content: object, draw: Callable[[], Figure], step: int) -> None:
        """Add a picture where matplotlib is installed, unless it stands there.

        Args:
            name: Its tag.
            content: What it shows, which is to differ for another picture.
            draw: Draws it; an error costs a warning, since no picture is worth a run.
            step: The horizontal axis.
        """
        if not plots.available() or not self._is_new(name, content):
            return
        try:
            self._events.figure(name, draw(), step)
        except Exception:
            log.warning("The picture %s could not be drawn.", name, exc_info=True)

    def save(self) -> None:
        """Write what was added.

        Raises:
            OSError: If that cannot be done; it is kept for the next time.
        """
        self._events.flush()

    def _is_new(self, name: str, content: object) -> bool:
        known, self._shown[name] = self._shown.get(name), content
        return known != content
