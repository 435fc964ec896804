"""A run of an app on an engine of this machine: its log is shown, and processes that end are started again."""

from __future__ import annotations

import logging
import queue
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hetfed_lightning.flower.engine.control import Control, RefusedError, RunStatus
from hetfed_lightning.flower.engine.local_engine import LocalEngine
from hetfed_lightning.flower.engine.superlink_process import StartError

log = logging.getLogger(__name__)

FAILED = 1
INTERRUPTED = 128 + signal.SIGINT
FAILURE = "ServerApp raised an exception"
_OF_THE_ENGINE = re.compile(r"(INFO|DEBUG|WARNING|ERROR) *:|Successfully installed ")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_GLANCE = 0.2
"""Seconds between two looks at the processes."""
_GIVEN_UP = 2.0
"""Seconds for a SuperLink that no longer answers to be gone."""


class SuperLinkEndedError(RuntimeError):
    """Error that the SuperLink ended during a run; the message names its log."""


def run_app(engine: LocalEngine, app: Path, config: Mapping[str, str | float | bool]) -> int:
    """Exit code of an app's run on an engine, which is started, shown to its end, and stopped.

    Args:
        engine: Engine, not yet started.
        app: Folder of the app.
        config: Run configuration of the app.

    Returns:
        0 if the run went through, 1 if not, 130 if it was interrupted.
    """
    with terminated_by_exception():
        try:
            with engine, engine.control() as control:
                outcome = follow(engine, control, control.start_run(app, config))
        except (StartError, RefusedError, SuperLinkEndedError) as error:
            return _failed(str(error))
        except KeyboardInterrupt:
            return _failed("interrupted; everything is stopped.", INTERRUPTED)
    return 0 if outcome.is_success else _failed(outcome.error or f"the run was {outcome.sub_status}.")


def follow(
    engine: LocalEngine, control: Control, run: int, meanwhile: Callable[[], object] = lambda: None
) -> RunStatus:
    """Outcome of a run, whose ServerApp's log is shown until it has ended; processes are looked after meanwhile.

    Args:
        engine: Engine of the processes.
        control: A connection to its SuperLink.
        run: The engine's number of the run.
        meanwhile: Function called several times a second, before the processes are looked after.

    Raises:
        SuperLinkEndedError: If the SuperLink ended before.
    """
    said: queue.Queue[str | None] = queue.Queue()
    lines = _Lines(engine.folder / "serverapp.log")
    _listen(control, run, said)
    while True:
        piece = _next(said)
        if piece:
            lines.show(piece)
        meanwhile()
        if not engine.superlink.process.is_alive:
            raise SuperLinkEndedError(_ended(engine))
        if piece is None:
            outcome = _outcome(engine, control, run)
            if outcome.is_finished:
                return outcome
            _listen(control, run, said)
        for sentence in engine.look_after():
            log.warning("%s", sentence)


def _listen(control: Control, run: int, said: queue.Queue[str | None]) -> None:
    """Start a thread that puts pieces of the log into a queue, and None at its end."""

    def listen() -> None:
        try:
            for piece in control.logs(run):
                said.put(piece)
        except RefusedError as error:
            log.debug("%s", error)
        finally:
            said.put(None)

    threading.Thread(target=listen, daemon=True).start()


def _next(said: queue.Queue[str | None]) -> str | None:
    """Next piece of the log; empty if there is none yet, None at its end."""
    try:
        return said.get(timeout=_GLANCE)
    except queue.Empty:
        return ""


def _outcome(engine: LocalEngine, control: Control, run: int) -> RunStatus:
    try:
        return control.outcome(run)
    except RefusedError as error:
        if engine.superlink.process.wait(_GIVEN_UP):
            raise SuperLinkEndedError(_ended(engine)) from error
        raise


def _ended(engine: LocalEngine) -> str:
    return f"the SuperLink ended while the run went on, see {engine.superlink.process.log}."


class _Lines:
    """Pieces of a log: all go into a file, and lines that are not the engine's own are shown.

    Args:
        file: Log file of the ServerApp, which has no other.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rest = ""
        self._failed = False

    def show(self, piece: str) -> None:
        """Show the lines that a piece completes."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(piece)
        *lines, self._rest = (self._rest + piece).split("\n")
        for line in lines:
            plain = _COLOURS.sub("", line)
            self._failed |= FAILURE in plain  # Its traceback follows; its sentence is shown at the end.
            if not self._failed and not _OF_THE_ENGINE.match(plain):
                sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _failed(sentence: str, code: int = FAILED) -> int:
    sys.stderr.write(f"hetfed: error: {sentence}\n")
    return code


@contextmanager
def terminated_by_exception() -> Iterator[None]:
    """Context that SIGTERM ends as an exception, so that everything is stopped on the way out."""

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
