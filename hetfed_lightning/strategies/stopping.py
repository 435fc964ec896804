"""At which batch several ranks stop together, once one of them was told to.

Nothing is exchanged inside a round, so that ranks are at different batches when one is told. A run may stop at certain
places, the end of a batch among them, which every rank passes in the same order and counts. A rank that hears of the
signal says how many it has passed, and waits at its next one until all have said so: they stop at the first place that
none had passed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any


class Stopping:
    """One rank's view of where the run stops.

    Args:
        rank: Of this process.
        world: Number of processes.
    """

    def __init__(self, rank: int, world: int) -> None:
        self.rank = rank
        self.world = world
        self.signal: int | None = None
        self.passed = 0
        self._passed_by: dict[int, int] = {}
        self._lock = threading.Lock()

    def ask(self, signum: int) -> None:
        """Stop, for a signal that this rank has received."""
        self.signal = self.signal or signum

    def arrive(self) -> bool:
        """Come to a place where the run may stop; whether it is to be asked if this is the one."""
        with self._lock:  # What others were told of this rank is either before this place, or stops it here.
            self.passed += 1
            return self.rank in self._passed_by

    @property
    def place(self) -> int | None:
        """The number of the place where all stop; None while that is not known."""
        return max(self._passed_by.values()) + 1 if len(self._passed_by) == self.world else None

    def news(self) -> dict[str, int] | None:
        """What the others are to be told, once."""
        with self._lock:
            if self.signal is None or self.rank in self._passed_by:
                return None
            self._passed_by[self.rank] = self.passed
        return {"stop": self.signal, "rank": self.rank, "passed": self.passed}

    def hear(self, message: Mapping[str, Any]) -> None:
        """Note what another rank told."""
        self.signal = self.signal or message["stop"]
        self._passed_by[message["rank"]] = message["passed"]
