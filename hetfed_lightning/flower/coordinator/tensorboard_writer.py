"""What a coordinator shows in TensorBoard: rows of numbers, charts of them, pages of text and pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hetfed_lightning import plots
from hetfed_lightning.callbacks.pages import Layout, chart_layout
from hetfed_lightning.flower.coordinator.event_file import EventFile
from hetfed_lightning.ledger import tag

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

_FLAGS = tag("quarantined", "")


class TensorBoardWriter:
    """Events of one process, which go on with those of an earlier one; nothing is written before :meth:`save`.

    What an earlier process has written of rounds that are made again is forgotten. Which these are is told by the first
    row: its round may have been written just before that process was killed. Until then what is new is held back.

    Args:
        folder: Where TensorBoard looks for them.
        first_round: The round that comes next, from 0; the one before may still be written.
        tags: What earlier rounds have logged, which has its charts.
        shown: Contents of pages and pictures that an earlier process has written, by name.
    """

    def __init__(self, folder: Path, first_round: int, tags: Iterable[str], shown: Mapping[str, object]) -> None:
        before = any(folder.glob("*tfevents*"))
        self._events = EventFile(folder)
        self._holds_back = before
        self._next_step = first_round + 1
        self._tags = set(tags)
        self._laid_out: Layout = {}
        self._shown = dict(shown) if before else {}
        if not plots.available():
            log.info("No pictures for TensorBoard: they need matplotlib (pip install 'hetfed-lightning[plots]').")

    def row(self, values: Mapping[str, float], step: int, names: Sequence[str]) -> None:
        """Add a round's numbers, and lay out the charts where others turn up.

        Args:
            values: By tag.
            step: The horizontal axis: rounds that have been trained.
            names: The participants, who have a line each.
        """
        self._next_step = min(self._next_step, step)
        self.settle()
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
        """Write what was added, unless it is held back.

        Raises:
            OSError: If that cannot be done; it is kept for the next time.
        """
        if not self._holds_back:
            self._events.flush()

    def settle(self) -> None:
        """Hold nothing back any longer."""
        if self._holds_back:
            self._holds_back = False
            self._events.forget_from(self._next_step)

    def _is_new(self, name: str, content: object) -> bool:
        known, self._shown[name] = self._shown.get(name), content
        return known != content
