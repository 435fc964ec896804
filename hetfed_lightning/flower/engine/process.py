"""A process that is watched, leaves a log, and never outlives its parent."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hetfed_lightning.flower.engine import marks

QUICK = 15.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
"""Loaded beforehand: between fork and exec nothing may be imported."""


class Process:
    """A program with a log file, in a session of its own so that Ctrl-C reaches the parent alone.

    Attributes:
        quick_ends: Number of starts in a row within :data:`QUICK` seconds of the start before.

    Args:
        name: Name for messages.
        command: Program and arguments.
        environment: All variables of the process.
        log: File that its output is added to.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.command = list(command)
        self.environment = dict(environment)
        self.log = log
        self._running: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self.quick_ends = 0

    def start(self) -> None:
        """Start it, from the main thread: it dies with the thread that started it.

        Raises:
            RuntimeError: If it runs already.
        """
        if self.is_alive:
            raise RuntimeError(f"{self.name} runs already, as process {self.pid}.")
        now = time.monotonic()
        self.quick_ends = self.quick_ends + 1 if self._running is not None and now - self._started_at < QUICK else 0
        self._started_at = now
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(  # noqa: S603  # programs of this package and of the engine
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  # two system calls, prepared beforehand
            )

    @property
    def is_alive(self) -> bool:
        """True if it runs. Asking removes a dead one from the process table, where it would look alive to others."""
        return self._running is not None and self._running.poll() is None

    @property
    def age(self) -> float:
        """Seconds since it was last started."""
        return time.monotonic() - self._started_at

    @property
    def pid(self) -> int:
        """Number of the process.

        Raises:
            RuntimeError: If it was never started.
        """
        return self._started().pid

    @property
    def exit_code(self) -> int | None:
        """Exit code; below zero after a signal, None while it runs."""
        return self._started().poll()

    def terminate(self) -> None:
        """Ask it to end."""
        if self.is_alive:
            self._started().terminate()

    def kill(self) -> None:
        """End it and all that it has started at once, as a power cut would."""
        if self.is_alive:
            marks.end([self.pid, *marks.descendants(self.pid)])
            self._started().wait()

    def wait(self, seconds: float) -> bool:
        """True if it ended within ``seconds``."""
        if self._running is None:
            return True
        with suppress(subprocess.TimeoutExpired):
            self._running.wait(timeout=seconds)
        return not self.is_alive

    def stop(self, patience: float = 6.0) -> None:
        """Ask it to end, and end it if it does not within ``patience`` seconds."""
        self.terminate()
        if not self.wait(patience):
            self.kill()

    def tail(self, lines: int = 5) -> str:
        """Last lines of its log that are not empty."""
        if not self.log.is_file():
            return ""
        said = [line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return "\n".join(said[-lines:])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._running is None:
            raise RuntimeError(f"{self.name} was not started.")
        return self._running


def _die_with_parent() -> None:
    """Make the kernel end this process when its parent is gone for whatever reason; called between fork and exec."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Watchdog:
    """Process that ends everything under a mark when this one is gone for whatever reason.

    Args:
        mark: Value of :data:`~hetfed_lightning.flower.engine.marks.MARK`.
    """

    def __init__(self, mark: str) -> None:
        self._running = subprocess.Popen(  # noqa: S603  # a program of this package
            [sys.executable, "-P", "-S", marks.__file__, mark],
            stdin=subprocess.PIPE,
            env={},
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """End the watchdog, after all has ended."""
        with suppress(BrokenPipeError):
            self._running.communicate(marks.DONE)
