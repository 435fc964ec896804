"""Where tasks come from, and what the process of one task does: it starts no program and runs no code that was sent.

An app that is submitted brings files. What runs here is what is installed here, whatever they say.
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
"""Begins a line of a task's log that is for a person."""

log = logging.getLogger(__name__)
server_engine = import_module("flwr.superlink.runtime.run_serverapp")  # its package has a function of this name


class TaskSource(ABC):
    """A process of the engine whose tasks are run here.

    Attributes:
        running: Processes that work on a task.

    Args:
        name: For messages.
        kind: Of the tasks that it gives.
        client: By which it is asked for them.
    """

    def __init__(self, name: str, kind: TaskType, client: RuntimeHttpClient) -> None:
        self._name = name
        self.running: set[int] = set()
        self._kind = kind
        self._client = client

    def token(self) -> str | None:
        """Take a task that waits, if there is one.

        A task whose giver is gone has nobody to answer to: it is ended, so that the next one has its files for itself.
        Who is only hard to reach, for a crowd before it, is not gone.
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
        """Forget the processes that have ended."""
        self.running -= {pid for pid in self.running if os.waitpid(pid, os.WNOHANG)[0]}

    def end(self) -> None:
        """End what runs, at once."""
        for pid in self.running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.running.clear()

    def run(self, token: str) -> int:
        """Be the process of one task, and return its exit code."""
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
    """Whether a call failed because nobody listens: a refused connection, or no socket, is at the bottom of it."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError | FileNotFoundError):
            return True
        error = error.__cause__ or error.__context__
    return False


class SiteTasks(TaskSource):
    """Tasks of a SuperNode.

    Args:
        socket: At which it gives them.
        app: What does them.
        file: That they write to.
    """

    def __init__(self, socket: Path, app: ClientApp, file: Path) -> None:
        self._made = ClientOfSocket(RuntimeHttpClient, socket)
        version = RuntimeVersionHttpInterceptor(component_name="SuperExec")
        super().__init__(str(socket), TaskType.CLIENT_APP, self._made.from_server_address(interceptors=[version]))
        self._app = app
        self._file = file

    def work(self, token: str) -> None:
        """What ``flwr-clientapp`` does, with an app that is there already."""
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
        address: Of all of its interfaces, as this machine calls it.
        secret: Of its operator.
        app: What leads a run.
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
        """What ``flwr-serverapp`` does, with an app that is there already; of what was submitted, the settings count.

        What it says goes to the SuperLink, which hands it to the operator.
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
    """Functions for the engine's module, by their names there: nothing is unpacked, and the app is this one."""
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
