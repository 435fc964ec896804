"""An engine of this machine, with all of its sites or without: its processes, started again when they end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from hetfed_lightning.flower.engine import executor
from hetfed_lightning.flower.engine.control import Control
from hetfed_lightning.flower.engine.limits import Limits
from hetfed_lightning.flower.engine.process import Process
from hetfed_lightning.flower.engine.process_engine import ProcessEngine, Watched
from hetfed_lightning.flower.engine.restarts import AtOnce
from hetfed_lightning.flower.engine.settings import LOOPBACK, free_ports, without_proxy
from hetfed_lightning.flower.engine.superlink_process import StartError, SuperLink
from hetfed_lightning.flower.engine.supernode_process import SuperNode
from hetfed_lightning.flower.files.folder import KeyFolder


class LocalEngine(ProcessEngine):
    """SuperLink, SuperNodes and the executor of their tasks, on loopback.

    Args:
        folder: Folder for logs, the database and the engine's own files.
        sites: Node configuration of each site, by name.
        keys: Certificates and keys; None for plain text.
        app: ``MODULE:NAME`` of the ClientApp that sites run; None to have the engine start a program for every message,
            with the app that was submitted.
        server_app: ``MODULE:NAME`` of the ServerApp that leads runs, whatever was submitted; None for the engine's own
            SuperLink, which starts the submitted app, to measure its cost.
        limits: Limits of the SuperLink towards callers.
        variables: More variables for all processes.
        host: Address at which the SuperLink listens.
        port: Port at which it listens; None for a free one.
        elsewhere: Names of sites whose processes are on other machines; their keys are admitted.
    """

    def __init__(
        self,
        folder: Path,
        sites: Mapping[str, Mapping[str, str]],
        *,
        keys: KeyFolder | None,
        app: str | None,
        server_app: str | None = executor.SERVER_APP,
        limits: Limits | None = None,
        variables: Mapping[str, str] | None = None,
        host: str = LOOPBACK,
        port: int | None = None,
        elsewhere: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, AtOnce(), variables)
        self.keys = keys
        self.variables |= without_proxy(self.variables, host)
        self.superlink = SuperLink(folder, self.variables, keys, limits=limits, host=host, port=port)
        self._elsewhere = tuple(elsewhere)
        self._app = app
        self._server_app = server_app
        if server_app is None:
            self.superlink.program, self.superlink.isolation = ["flower-superlink"], "subprocess"
        ports = [None] * len(sites) if app is not None else free_ports(len(sites))
        each = zip(sites.items(), ports, strict=True)
        self.nodes = {
            name: self._node(number, name, config, port) for number, ((name, config), port) in enumerate(each)
        }
        self.node_ids: dict[str, int] = {}
        self.executor = (
            None
            if app is None and server_app is None
            else Process("executor of the tasks", [], self.variables, folder / "executor.log")
        )

    def bring_up(self) -> None:
        """Start the SuperLink, then the nodes.

        Raises:
            StartError: If the SuperLink does not come up.
        """
        for old in self.folder.glob("superlink.db*"):  # It serves restarts of this engine's SuperLink alone.
            old.unlink()
        expected = self.superlink.address
        self.superlink.hand_over_secret()
        self._start_executor()  # Started first, since it imports for seconds.
        self.superlink.start()
        if self.superlink.address != expected and self.executor is not None:  # another program was faster at its port
            self.executor.stop()
            self._start_executor()
        for node in self.nodes.values():
            node.superlink = self.superlink.address  # Its port is known now.
        self.register([*self.nodes, *self._elsewhere])
        for node in self.nodes.values():
            node.start()

    def register(self, names: Sequence[str]) -> None:
        """Admit the keys of sites, each under its participant's name."""
        if self.keys is None:
            return
        with self.control() as control:
            for name in names:
                self.node_ids[name] = control.register(self.keys.public(name), name)

    def control(self) -> Control:
        """Connection as the SuperLink's operator."""
        return self.superlink.control()

    def kill_node(self, name: str) -> None:
        """End a site's SuperNode at once; its task ends with it."""
        self.nodes[name].process.kill()

    def restart_node(self, name: str) -> None:
        """Start a site's SuperNode again, after it ended or was killed."""
        node = self.nodes[name]
        if name in self.node_ids:
            node.release(self.node_ids[name])
        node.start()

    def kill_superlink(self) -> None:
        """End the SuperLink at once; the run's ServerApp ends a moment later, when it misses the SuperLink."""
        self.superlink.process.kill()

    def restart_superlink(self) -> None:
        """Start the SuperLink again, at the same address and with the nodes that it knew."""
        self.superlink.start()

    def processes(self) -> list[Process]:
        """SuperNodes, SuperLink and executor."""
        nodes = [node.process for node in self.nodes.values()]
        return [*nodes, self.superlink.process, *([self.executor] if self.executor is not None else [])]

    def watched(self) -> Iterator[Watched]:
        """SuperNodes and executor; the SuperLink is not looked after."""
        for name, node in self.nodes.items():
            yield Watched(node.process, f"{name}: its SuperNode", partial(self.restart_node, name))
        if self.executor is not None:
            yield Watched(self.executor, "The executor of the tasks", self.executor.start)

    def stop(self, patience: float = 6.0) -> None:
        """End everything, and remove the operator's secret; argument as for :class:`ProcessEngine`."""
        try:
            super().stop(patience)
        finally:
            self.superlink.secret_file.unlink(missing_ok=True)

    def _node(self, number: int, name: str, config: Mapping[str, str], port: int | None) -> SuperNode:
        keys = self.keys
        return SuperNode(
            name, self.superlink.address, self.variables, self.folder / f"{name}.log", config,
            socket=self.folder / f"tasks-{number}.socket" if port is None else None, port=port,
            authority=None if keys is None else keys.authority, key=None if keys is None else keys.private(name),
        )  # fmt: skip

    def _start_executor(self) -> None:
        if self.executor is None:
            return
        command = executor.command()
        if self._server_app is not None:
            command += ["--server", self.superlink.address, "--operator-secret", str(self.superlink.secret_file)]
            command += ["--server-app", self._server_app]
            command += [] if self.keys is None else ["--ca", str(self.keys.authority)]
        if self._app is not None and self.nodes:
            command += ["--app", self._app]
            for name, node in self.nodes.items():
                command += ["--node", str(node.socket), str(self.folder / f"{name}.log")]
        self.executor.command = command
        self.executor.start()


__all__ = ["LocalEngine", "StartError"]
