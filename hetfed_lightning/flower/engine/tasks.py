"""Sources of tasks, and the process of one task; it starts no program and runs no code that was sent.

An app that is submitted brings files. The installed program runs here, whatever those files contain.
"""

from __future__ import annotations

import logging
import os
import random
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
from flwr.cli.config_utils import get_fab_metadata
from flwr.clientapp import ClientApp
from flwr.common.config import get_fused_config_from_fab
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.server.run_serverapp import run as run_with_grid
from flwr.serverapp import ServerApp
from flwr.supercore.constant import TaskType
from flwr.supercore.exit import exit_handler
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.logger import mirror_output_to_queue
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid import http_grid
from flwr.supernode.runtime import run_clientapp as client_engine

from hetfed_lightning.flower.engine.logging_setup import log_to_output
from hetfed_lightning.flower.engine.operator_secret import ClientWithSecret, ShowsSecret
from hetfed_lightning.flower.engine.socket_files import ClientOfSocket

OURS = "hetfed: "
"""First characters of lines in a task's log that are for people."""

log = logging.getLogger(__name__)
server_engine = import_module("flwr.superlink.runtime.run_serverapp")  # its package has a function of this name


class TaskSource(ABC):
    """A process of the engine whose tasks are run here.

    Attributes:
        running: Numbers of processes that work on a task.

    Args:
        name: Name for messages.
        kind: Kind of its tasks.
        client: Client that asks it for tasks.
    """

    def __init__(self, name: str, kind: TaskType, client: RuntimeHttpClient) -> None:
        self._name = name
        self.running: set[int] = set()
        self._kind = kind
        self._client = client

    def token(self) -> str | None:
        """Token of a task that waits, taken from the source; None without one.

        Tasks of a source that is gone have nobody to answer to. They are ended, so that the next source has their files
        for itself. A source that a crowd makes hard to reach is not gone.
        """
        try:
            answer = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[self._kind]))
        except httpx.HTTPError as error:
            if is_gone(error):
                self.end()
            else:
                log.warning("%s: %s", self._name, error)
            return None
        return answer.token or None

    def reap(self) -> None:
        """Remove processes that have ended from ``running``."""
        self.running -= {pid for pid in self.running if os.waitpid(pid, os.WNOHANG)[0]}

    def end(self) -> None:
        """End all running tasks at once."""
        for pid in self.running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.running.clear()

    def run(self, token: str) -> int:
        """Exit code of one task, whose process this one becomes."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        random.seed()
        np.random.seed()  # noqa: NPY002  # libraries that draw from it must not draw the same in every task
        exit_handler.registered_exit_handlers.clear()
        self.work(token)
        return 0

    @abstractmethod
    def work(self, token: str) -> None:
        """Do a task, in its process."""


def is_gone(error: BaseException | None) -> bool:
    """True if a call failed because nobody listens: a refused connection, or no socket, is the error's cause."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError | FileNotFoundError):
            return True
        error = error.__cause__ or error.__context__
    return False


class SiteTasks(TaskSource):
    """Tasks of a SuperNode.

    Args:
        socket: Socket file at which it gives them.
        app: App that does them.
        file: Log file of the tasks.
    """

    def __init__(self, socket: Path, app: ClientApp, file: Path) -> None:
        self._made = ClientOfSocket(RuntimeHttpClient, socket)
        version = RuntimeVersionHttpInterceptor(component_name="SuperExec")
        super().__init__(str(socket), TaskType.CLIENT_APP, self._made.from_server_address(interceptors=[version]))
        self._app = app
        self._file = file

    def work(self, token: str) -> None:
        """Do a task as ``flwr-clientapp`` does, with an app that is imported already."""
        with self._file.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        log_to_output(OURS)
        (inflatable_utils.pull_and_inflate_object_from_tree.__kwdefaults__ or {}).update(initial_backoff=0.05)
        vars(client_engine).update(
            install_from_fab=lambda *_, **__: Path(),
            get_load_client_app_fn=lambda *_, **__: lambda *_: self._app,
            RuntimeHttpClient=self._made,
        )
        client_engine.run_clientapp("", token, insecure=True)


class ServerTasks(TaskSource):
    """Tasks of a SuperLink: runs, each led by one process.

    Args:
        address: ``host:port`` of its interfaces, as this machine calls it.
        secret: Secret of its operator.
        app: App that leads a run.
        authority: Certificate by which it is known; None for plain text.
    """

    def __init__(self, address: str, secret: str, app: ServerApp, authority: bytes | None) -> None:
        client = RuntimeHttpClient.from_server_address(
            server_address=address,
            insecure=authority is None,
            root_certificates=authority,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), ShowsSecret(secret)],
        )
        super().__init__(address, TaskType.SERVER_APP, client)
        self._address = address
        self._app = app
        self._secret = secret
        self._authority = authority

    def work(self, token: str) -> None:
        """Do a task as ``flwr-serverapp`` does, with an app that is imported already and the submitted settings.

        Its output goes to the SuperLink, which passes it to the operator.
        """
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        said: Queue[str | None] = Queue()
        mirror_output_to_queue(said)
        vars(http_grid).update(RuntimeHttpClient=ClientWithSecret(RuntimeHttpClient, self._secret))
        vars(server_engine).update(_in_place_of_an_installed_app(self._app))
        server_engine.run_serverapp(
            runtime_api_address=self._address,
            log_queue=said,
            token=token,
            insecure=self._authority is None,
            certificates=self._authority,
            runtime_dependency_install=False,
        )


def _in_place_of_an_installed_app(app: ServerApp) -> dict[str, Callable[..., Any]]:
    """Functions for the engine's module, by their names there, that unpack nothing and give this app."""
    submitted = b""

    def metadata(fab: bytes) -> tuple[str, str]:
        nonlocal submitted
        submitted = fab
        return get_fab_metadata(fab)

    def settings(_: Path, changed: dict[str, Any]) -> Any:
        run: Any = SimpleNamespace(override_config=changed)
        return get_fused_config_from_fab(submitted, run)

    return {
        "install_from_fab": lambda *_, **__: Path(),
        "get_fab_metadata": metadata,
        "get_project_config": lambda _: {"tool": {"flwr": {"app": {"components": {"serverapp": "the installed one"}}}}},
        "get_fused_config_from_dir": settings,
        "run_": lambda *, grid, context, **_: run_with_grid(grid, context, "", loaded_server_app=app),
    }
