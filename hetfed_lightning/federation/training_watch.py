"""Watch for the begin of training: errors from then on are not about the input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class TrainingWatch:
    """Watch over a stretch of the process.

    Attributes:
        begun: True once a federation has begun to train in that stretch, in whatever thread.
    """

    def __init__(self) -> None:
        self.begun = False

    def begin(self) -> None:
        """Note that a federation is about to train."""
        self.begun = True


_open: list[TrainingWatch] = []


@contextmanager
def watch_training() -> Iterator[TrainingWatch]:
    """Watch over the body of a ``with`` statement; several may be open at once."""
    watch = TrainingWatch()
    _open.append(watch)
    try:
        yield watch
    finally:
        _open.remove(watch)


def tell_that_training_begins() -> None:
    """Tell every watch that is open."""
    for watch in _open:
        watch.begin()
