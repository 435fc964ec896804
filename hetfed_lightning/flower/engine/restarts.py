"""Rules by which a process that has ended is started again: at once with a limit, or for ever with pauses."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import NamedTuple

from hetfed_lightning.flower.engine.process import Process

QUICK_ENDS = 3
"""Number of ends in a row, each soon after a start, after which a process is left out."""

PAUSE = 10.0
"""Seconds until a process that ended soon after its start is started again."""


class Verdict(NamedTuple):
    """Decision on a process that has ended.

    Attributes:
        again: True to start it now.
        told: Sentence for the operator; empty if there is nothing to say.
    """

    again: bool
    told: str = ""


class RestartRule(ABC):
    """Rule that is asked again and again as long as a process is not alive."""

    @abstractmethod
    def __call__(self, process: Process, who: str) -> Verdict:
        """Verdict on a process that has ended.

        Args:
            process: The process.
            who: Its name at the beginning of a sentence.
        """


class AtOnce(RestartRule):
    """Start at once, and leave a process out that ends each time soon after its start."""

    def __init__(self) -> None:
        self._given_up: list[Process] = []

    def __call__(self, process: Process, who: str) -> Verdict:
        """Verdict on a process that has ended; arguments as for :class:`RestartRule`."""
        if process in self._given_up:
            return Verdict(again=False)
        if process.quick_ends >= QUICK_ENDS:
            self._given_up.append(process)
            told = f"{who} {how_it_ended(process)}, as it did {QUICK_ENDS} times before; it is left out."
            return Verdict(again=False, told=told)
        return Verdict(again=True, told=f"{who} {how_it_ended(process)}; it is started again.")


class WithPauses(RestartRule):
    """Start for ever, after a pause if a process had hardly begun; a sentence is not repeated."""

    def __init__(self) -> None:
        self._due: dict[Process, float] = {}
        self._told = ""

    def __call__(self, process: Process, who: str) -> Verdict:
        """Verdict on a process that has ended; arguments as for :class:`RestartRule`."""
        told = ""
        if process not in self._due:
            self._due[process] = time.monotonic() + (PAUSE if process.age < PAUSE * 2 else 0.0)
            sentence = f"{who} {how_it_ended(process)}; it is started again."
            # A node ends with 0 if a new coordinator does not know its number, which is no fault.
            if process.exit_code and (process.exit_code < 0 or sentence != self._told):
                told = self._told = sentence
        again = time.monotonic() >= self._due[process]
        if again:
            del self._due[process]
        return Verdict(again, told)


def how_it_ended(process: Process) -> str:
    """Words on a process that has ended, with its log: ``ended with code 3 (see /run/executor.log)``."""
    code = process.exit_code
    how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
    return f"{how} (see {process.log})"
