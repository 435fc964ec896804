"""TensorBoard events of a coordinator: rows of numbers, charts of them, pages of text and pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hetfed_lightning import plots
from hetfed_lightning.callbacks.run_pages import Charts, has_pictures
from hetfed_lightning.flower.coordinator.event_file import EventFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)


class TensorBoardWriter:
    """Events of one process, which continue those of an earlier one; nothing is written before :meth:`save`.

    Events that an earlier process has written of repeated rounds are dropped. They are known from the first row on,
    since its round may have been written just before that process was killed. Until then new events are held back.

    Args:
        folder: Folder where TensorBoard looks for them.
        first_round: The round that comes next, from 0; the one before may still be written.
        tags: Tags that earlier rounds have logged, which have charts.
        shown: Contents of pages and pictures that an earlier process has written, by name.
    """

    def __init__(self, folder: Path, first_round: int, tags: Iterable[str], shown: Mapping[str, object]) -> None:
        before = any(folder.glob("*tfevents*"))
        self._events = EventFile(folder)
        self._holds_back = before
        self._next_step = first_round + 1
        self._charts = Charts(tags)
        self._shown = dict(shown) if before else {}
        has_pictures()

    def row(self, values: Mapping[str, float], step: int, names: Sequence[str]) -> None:
        """Add a round's numbers, and change the charts if there are new tags.

        Args:
            values: Values by tag.
            step: Number of rounds that have been trained, the horizontal axis.
            names: The participants, with a line each.
        """
        self._next_step = min(self._next_step, step)
        self.settle()
        self._events.scalars(values, step)
        self._charts.add(values)
        if layout := self._charts.changed(names):
            self._events.layout(layout)

    def page(self, name: str, text: str, step: int) -> None:
        """Add a page of Markdown, unless it is empty or unchanged.

        Args:
            name: Tag of the page.
            text: The page.
            step: Number of rounds that have been trained.
        """
        if text and self._is_new(name, text):
            self._events.text(name, text, step)

    def picture(self, name: str, content: object, draw: Callable[[], Figure], step: int) -> None:
        """Add a picture if matplotlib is installed, unless it is unchanged.

        Args:
            name: Tag of the picture.
            content: Data of the picture, by which a change is noticed.
            draw: Function that draws it; an error costs a warning, since no picture is worth a run.
            step: Number of rounds that have been trained.
        """
        if not plots.available() or not self._is_new(name, content):
            return
        try:
            self._events.figure(name, draw(), step)
        except Exception:
            log.warning("The picture %s could not be drawn.", name, exc_info=True)

    def save(self) -> None:
        """Write added events, unless they are held back.

        Raises:
            OSError: If they cannot be written; they are kept for the next time.
        """
        if not self._holds_back:
            self._events.flush()

    def settle(self) -> None:
        """Stop holding events back."""
        if self._holds_back:
            self._holds_back = False
            self._events.forget_from(self._next_step)

    def _is_new(self, name: str, content: object) -> bool:
        known, self._shown[name] = self._shown.get(name), content
        return known != content
