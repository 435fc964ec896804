"""Watch for the begin of training, after which errors are not caused by the input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class TrainingWatch:
    """Watch over a period of the process.

    Attributes:
        begun: True once a federation has begun to train in that period, in any thread.
    """

    def __init__(self) -> None:
        self.begun = False

    def begin(self) -> None:
        """Set :attr:`begun`, as a federation is about to train."""
        self.begun = True


_open: list[TrainingWatch] = []


@contextmanager
def watch_training() -> Iterator[TrainingWatch]:
    """Context with a watch over its body; several may be open at once."""
    watch = TrainingWatch()
    _open.append(watch)
    try:
        yield watch
    finally:
        _open.remove(watch)


def tell_that_training_begins() -> None:
    """Call :meth:`TrainingWatch.begin` of every open watch."""
    for watch in _open:
        watch.begin()
