"""The processes of one site with a coordinator elsewhere, kept alive for as long as the site takes part."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from hetfed_lightning.flower.engine import executor
from hetfed_lightning.flower.engine.process import Process
from hetfed_lightning.flower.engine.process_engine import ProcessEngine, Watched
from hetfed_lightning.flower.engine.restarts import WithPauses
from hetfed_lightning.flower.engine.supernode_process import SuperNode

NODE_LOG, TASKS_LOG, EXECUTOR_LOG = "supernode.log", "tasks.log", "executor.log"
SOCKET = "tasks.socket"
_NODE_ID = re.compile(r"SuperNode ID: (\d+)")


class SiteEngine(ProcessEngine):
    """A SuperNode and the executor of its tasks.

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
        super().__init__(folder, WithPauses(), variables)
        self.node = SuperNode(
            name, coordinator, self.variables, folder / NODE_LOG, config,
            socket=folder / SOCKET, authority=authority, key=key,
        )  # fmt: skip
        self.executor = Process("The executor of the tasks", [], self.variables, folder / EXECUTOR_LOG)
        self._app = app

    def processes(self) -> list[Process]:
        """SuperNode and executor."""
        return [self.node.process, self.executor]

    def watched(self) -> Iterator[Watched]:
        """SuperNode and executor."""
        yield Watched(self.node.process, self.node.process.name, self._restart_node)
        yield Watched(self.executor, self.executor.name, self._start_executor)

    def bring_up(self) -> None:
        """Start both."""
        self._start_executor()
        self._release()  # A killed process before this one could not do it.
        self.node.start()

    def _restart_node(self) -> None:
        if (self.node.process.exit_code or 0) < 0:
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
