"""A TensorBoard event file that is written on demand, and completed once a full disk allows it.

TensorBoard's own writer has a thread of its own, which ends for good with the first full disk.
"""

from __future__ import annotations

import io
import itertools
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from hetfed_lightning.callbacks.tensorboard_pages import Layout
from hetfed_lightning.checkpointing.atomic import write_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "brain.Event:2"
"""Version at the beginning of every event file."""


class EventFile:
    """One file of events, at any time a prefix of its intended content.

    Args:
        folder: Folder where TensorBoard looks for it; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path: Path | None = None
        self._written = 0
        self._head = _record(Event(file_version=FORMAT))
        self._pending = b""

    def forget_from(self, step: int) -> None:
        """Make readers drop events of older files from a step on; called before the first flush."""
        self._head += _record(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers by tag, all as one event.

        Args:
            values: Values by tag.
            step: The horizontal axis.
        """
        numbers = [Summary.Value(tag=key, simple_value=value) for key, value in values.items()]
        self._add(Event(step=step, summary=Summary(value=numbers)))

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Add a page of Markdown.

        Args:
            tag: Tag of the page.
            text: The page.
            step: The horizontal axis.
        """
        self._add(Event(step=step, summary=summary.text(tag, text)))

    def layout(self, layout: Layout) -> None:
        """Set the charts of the page "Custom Scalars", in place of earlier ones."""
        self._add(Event(summary=summary.custom_scalars(layout)))

    def figure(self, tag: str, figure: Figure, step: int = 0) -> None:
        """Add a picture.

        Args:
            tag: Tag of the picture.
            figure: Figure of matplotlib.
            step: The horizontal axis.
        """
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=figure.dpi)
        content = drawn.getvalue()
        width, height = struct.unpack(">II", content[16:24])  # In the first chunk of every PNG.
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=content)
        self._add(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)])))

    def flush(self) -> None:
        """Write events that have not been written.

        Raises:
            OSError: If they cannot be written; they are kept for the next time.
        """
        if self._path is None or not self._path.exists():
            self._path, self._written = _new_file(self.folder), 0
        content = self._pending if self._written else self._head + self._pending
        with self._path.open("r+b", buffering=0) as file:
            file.seek(self._written)  # Overwrites the part that a failed attempt has written, which is the same.
            write_all(file, memoryview(content))
        self._written += len(content)
        self._pending = b""

    def _add(self, event: Event) -> None:
        self._pending += _record(event)


def _record(event: Event) -> bytes:
    event.wall_time = time.time()
    framed = io.BytesIO()
    RecordWriter(framed).write(event.SerializeToString())
    return framed.getvalue()


def _new_file(folder: Path) -> Path:
    """A new file, named as by TensorBoard's writers, since readers take files in the order of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{number}"
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            continue
        return path
    raise AssertionError
