"""Processes that start under one mark, are looked after, and end together."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from hetfed_lightning.flower.engine.marks import end_marked
from hetfed_lightning.flower.engine.process import Process, Watchdog
from hetfed_lightning.flower.engine.restarts import RestartRule
from hetfed_lightning.flower.engine.settings import environment


class Watched(NamedTuple):
    """Process that is started again after it has ended.

    Attributes:
        process: The process.
        who: Its name at the beginning of a sentence.
        restart: Function that starts it again.
    """

    process: Process
    who: str
    restart: Callable[[], None]


class ProcessEngine(ABC):
    """Processes of one folder. Leaving it as a context ends everything that it started, even after an error.

    Args:
        folder: Folder for logs and the engine's own files, of its owner alone.
        rule: Rule by which processes are started again.
        variables: More variables for all processes.
    """

    def __init__(self, folder: Path, rule: RestartRule, variables: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.variables = environment(folder / "home", self.mark) | dict(variables or {})
        self._rule = rule
        self._watchdog: Watchdog | None = None

    @abstractmethod
    def processes(self) -> list[Process]:
        """All processes, in the order in which they are asked to end."""

    @abstractmethod
    def watched(self) -> Iterator[Watched]:
        """Processes that are looked after."""

    @abstractmethod
    def bring_up(self) -> None:
        """Start the processes, once their folder is there."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything; nodes connect by themselves, however long that takes.

        Raises:
            StartError: If a process that the others need does not come up.
        """
        self._watchdog = Watchdog(self.mark)
        # A database here holds the messages of all sites, and the logs tell of all of them.
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.bring_up()

    def look_after(self) -> list[str]:
        """Sentences on processes that have ended; they are started again by the engine's rule."""
        told = []
        for process, who, restart in self.watched():
            if process.is_alive:
                continue
            verdict = self._rule(process, who)
            if verdict.told:
                told.append(verdict.told)
            if verdict.again:
                restart()
        return told

    def stop(self, patience: float = 6.0) -> None:
        """End everything: first by asking, so that whoever is connected is told, then at once.

        Args:
            patience: Seconds to wait for each process that was asked.
        """
        processes = self.processes()
        try:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(patience)
        finally:
            end_marked(self.mark)
            for process in processes:
                process.wait(1.0)
            if self._watchdog is not None:
                self._watchdog.dismiss()
                self._watchdog = None
