"""The processes of one site with a coordinator elsewhere, kept alive for as long as the site takes part."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from hetfed_lightning.flower.engine import executor
from hetfed_lightning.flower.engine.marks import end_marked
from hetfed_lightning.flower.engine.process import Process, Watchdog
from hetfed_lightning.flower.engine.settings import environment
from hetfed_lightning.flower.engine.supernode_process import SuperNode

NODE_LOG, TASKS_LOG, EXECUTOR_LOG = "supernode.log", "tasks.log", "executor.log"
SOCKET = "tasks.socket"
PAUSE = 10.0
"""Seconds until a process that ended soon after its start is started again."""
_NODE_ID = re.compile(r"SuperNode ID: (\d+)")


class SiteEngine:
    """A SuperNode and the executor of its tasks. Leaving it as a context ends both.

    Args:
        folder: Folder for logs and the engine's own files.
        name: Name of the site.
        coordinator: ``host:port`` of the coordinator.
        config: Node configuration of the site.
        authority: Certificate by which the coordinator is known; None for plain text.
        key: The site's private key; None for plain text.
        app: ``MODULE:NAME`` of the ClientApp that is run, whatever was submitted.
        variables: More variables for all processes.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        coordinator: str,
        config: Mapping[str, str],
        *,
        authority: Path | None,
        key: Path | None,
        app: str,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self._variables = environment(folder / "home", self.mark) | dict(variables or {})
        self.node = SuperNode(
            name, coordinator, self._variables, folder / NODE_LOG, config,
            socket=folder / SOCKET, authority=authority, key=key,
        )  # fmt: skip
        self.executor = Process("The executor of the tasks", [], self._variables, folder / EXECUTOR_LOG)
        self._app = app
        self._again: dict[Process, float] = {}
        self._told = ""
        self._watchdog: Watchdog | None = None

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
        """Start both; the node connects by itself, however long that takes."""
        self._watchdog = Watchdog(self.mark)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._start_executor()
        self._release()  # A killed process before this one could not do it.
        self.node.start()

    def look_after(self) -> list[str]:
        """Sentences on processes that have ended; they are started again, after a pause if they had hardly begun."""
        told = []
        for process in (self.node.process, self.executor):
            if process.is_alive:
                continue
            if process not in self._again:
                pause = PAUSE if process.age < PAUSE * 2 else 0.0
                self._again[process] = time.monotonic() + pause
                sentence = (
                    f"{process.name} ended with code {process.exit_code} (see {process.log}); it is started again."
                )
                # A node ends with 0 if a new coordinator does not know its number, which is no fault.
                if process.exit_code and (process.exit_code < 0 or sentence != self._told):
                    told.append(sentence)
                    self._told = sentence
            if time.monotonic() >= self._again[process]:
                del self._again[process]
                self._restart(process)
        return told

    def stop(self, patience: float = 6.0) -> None:
        """End both: first by asking, so that the coordinator is told.

        Args:
            patience: Seconds to wait for them.
        """
        processes = [self.node.process, self.executor]
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

    def _restart(self, process: Process) -> None:
        if process is self.executor:
            self._start_executor()
            return
        if (process.exit_code or 0) < 0:
            self._release()
        self.node.start()

    def _start_executor(self) -> None:
        self.executor.command = executor.command(
            "--app", self._app, "--node", str(self.folder / SOCKET), str(self.folder / TASKS_LOG)
        )
        self.executor.start()

    def _release(self) -> None:
        """Sign the last node with this key off: the coordinator would keep its place for a minute."""
        log = self.node.process.log
        said = _NODE_ID.findall(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else []
        if said:
            self.node.release(int(said[-1]))
