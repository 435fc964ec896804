"""Agreement on the batch at which several ranks stop, once one of them was told to.

Nothing is exchanged inside a round, so ranks are at different batches when one is told. A run may stop at certain
places, such as the end of a batch, which every rank passes in the same order and counts. A rank that hears of the
signal announces its count, and waits at its next place until all have announced theirs. They stop at the first place
that none had passed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any


class Stopping:
    """State of that agreement on one rank.

    Args:
        rank: Rank of this process.
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
        """True if a stop was requested, so that this place may be the one; called wherever the run may stop."""
        with self._lock:  # The number told to the others either counts this place or makes the rank ask here.
            self.passed += 1
            return self.rank in self._passed_by

    @property
    def place(self) -> int | None:
        """Number of the place at which all ranks stop; None until it is known."""
        return max(self._passed_by.values()) + 1 if len(self._passed_by) == self.world else None

    def news(self) -> dict[str, int] | None:
        """Announcement for the other ranks, once; None without news."""
        with self._lock:
            if self.signal is None or self.rank in self._passed_by:
                return None
            self._passed_by[self.rank] = self.passed
        return {"stop": self.signal, "rank": self.rank, "passed": self.passed}

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take in the announcement of another rank."""
        self.signal = self.signal or message["stop"]
        self._passed_by[message["rank"]] = message["passed"]
