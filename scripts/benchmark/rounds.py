"""Clocks of the runs: rounds of one program and of the plain loop, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from scripts.benchmark.hardware import synchronise
from scripts.benchmark.plain import PlainLoop

SETTLED = 50
"""Rounds after which memory must no longer grow."""


@dataclass
class Record:
    """What a run gave.

    Attributes:
        seconds: Of every timed round.
        plain: Of the same round by the plain loop, right after.
        started: Seconds from the call that trains to its first batch; None where that cannot be seen.
        accuracy: Mean accuracy on the test set in the end, a fraction.
        plain_accuracy: The plain loop's.
        difference: Largest absolute difference between a weight and the plain loop's, in the end. What rounding
            began, unstable training multiplies: the FedAvg CNN's was 1e-8 after one round, 1e-4 after three.
        memory: Megabytes that training added to the process, or to the GPU, at its peak.
        peak: FLOP/s of a large matrix product in this process.
        workers: Processes that trained.
    """

    seconds: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    started: float | None = None
    accuracy: float | None = None
    plain_accuracy: float | None = None
    difference: float | None = None
    memory: float | None = None
    peak: float | None = None
    workers: int = 1

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


class PairClock:
    """Times the rounds of a program that says when one begins and ends, and the plain loop's after each.

    Args:
        record: Where times go.
        warm: Rounds that are not timed.
        device: ``"cpu"`` or ``"cuda"``.
        loop: The plain loop; None times the program alone.
        memory: Asked for the megabytes held at every round's end; None where nobody needs to know.
    """

    def __init__(
        self,
        record: Record,
        warm: int,
        device: str = "cpu",
        loop: PlainLoop | None = None,
        memory: Callable[[], float] | None = None,
    ) -> None:
        self.record = record
        self.loop = loop
        self.warm = warm
        self.device = device
        self.rounds = 0
        self.held: list[float] = []
        self._memory = memory
        self._started: float | None = None

    def open(self) -> None:
        """A round begins; one that is open ends here."""
        if self._started is not None:
            self.close()
        synchronise(self.device)  # What was queued before is not the round's.
        self._started = time.perf_counter()

    def close(self) -> None:
        """The open round has ended, if there is one: the plain loop trains it too."""
        if self._started is None:
            return
        synchronise(self.device)
        seconds = time.perf_counter() - self._started
        self._started = None
        if self._memory is not None:
            self.held.append(self._memory())
        timed = self.rounds >= self.warm
        if timed:
            self.record.seconds.append(seconds)
        if self.loop is not None:
            started = time.perf_counter()
            self.loop.round(self.rounds)
            synchronise(self.device)
            if timed:
                self.record.plain.append(time.perf_counter() - started)
        self.rounds += 1
