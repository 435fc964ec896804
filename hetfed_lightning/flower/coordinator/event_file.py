"""A TensorBoard event file that is written when it is told to be, and completed when the disk lets it be.

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

from hetfed_lightning.callbacks.pages import Layout
from hetfed_lightning.checkpointing.atomic import write_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "brain.Event:2"
"""The first thing in every event file."""


class EventFile:
    """One file of events. At any time it holds a beginning of what it is meant to hold.

    Args:
        folder: Where TensorBoard looks for it; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path: Path | None = None
        self._written = 0
        self._head = _record(Event(file_version=FORMAT))
        self._pending = b""

    def forget_from(self, step: int) -> None:
        """Have readers forget what older files of the folder hold of a step and later ones; before the first flush."""
        self._head += _record(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by tag, all as one event."""
        numbers = [Summary.Value(tag=key, simple_value=value) for key, value in values.items()]
        self._add(Event(step=step, summary=Summary(value=numbers)))

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """A page of Markdown."""
        self._add(Event(step=step, summary=summary.text(tag, text)))

    def layout(self, layout: Layout) -> None:
        """Charts of the page "Custom Scalars", in place of earlier ones."""
        self._add(Event(summary=summary.custom_scalars(layout)))

    def figure(self, tag: str, figure: Figure, step: int = 0) -> None:
        """A picture."""
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=figure.dpi)
        content = drawn.getvalue()
        width, height = struct.unpack(">II", content[16:24])  # Of the first chunk of every PNG.
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=content)
        self._add(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)])))

    def flush(self) -> None:
        """Write what has not been written.

        Raises:
            OSError: If that cannot be done; it is kept for the next time.
        """
        if self._path is None or not self._path.exists():
            self._path, self._written = _new_file(self.folder), 0
        content = self._pending if self._written else self._head + self._pending
        with self._path.open("r+b", buffering=0) as file:
            file.seek(self._written)  # What an attempt that failed wrote of it is written over by the same.
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
    """A file of its own, named as TensorBoard's writers name theirs: readers take files in the order of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{number}"
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            continue
        return path
    raise AssertionError
