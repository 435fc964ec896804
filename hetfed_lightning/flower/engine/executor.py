"""Runs a site's tasks in processes that are forked from one which has imported everything: no start-up per message.

The engine starts a program per message, which imports torch and Lightning for seconds before it does anything. This
process, ``python -m hetfed_lightning.flower.engine.executor``, takes the place of the one that would start them
(``flower-supernode --isolation process``). It also runs no code that came over the network: an app that is submitted at
the coordinator brings files, and this one runs what is installed here, whatever they say.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

import httpx
import numpy as np
from flwr.clientapp import ClientApp
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.exit import exit_handler
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime import run_clientapp as engine

from hetfed_lightning.flower.engine.settings import POLL
from hetfed_lightning.flower.speaking import speak

APP = "hetfed_lightning.flower.client_app:app"
PRELOADED = (
    "hetfed_lightning.flower.site_parts",
    "hetfed_lightning.backbones",
    "hetfed_lightning.heads",
    "torch.utils.tensorboard",
    "sklearn.datasets",
)
"""What sites' tasks import later than the app: a second for every message, if it were not here already."""
OURS = "hetfed: "
"""Begins a line of a task's log that is for a person."""
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Site:
    """A SuperNode whose tasks are run here.

    Attributes:
        address: Of its Runtime API, on this machine.
        log: File that its tasks write to; None for where this process writes.
        secret: By which the SuperNode knows who may take tasks.
        running: Processes that work on a task.
    """

    address: str
    log: Path | None
    secret: bytes
    running: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.client = RuntimeHttpClient.from_server_address(
            server_address=self.address,
            insecure=True,  # loopback
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                SuperExecAuthHttpInterceptor(master_secret=self.secret, protected_methods=frozenset({ACQUIRE})),
            ],
        )

    def token(self) -> str | None:
        """Take a task that waits, if there is one.

        A task whose SuperNode is gone has nobody to answer to: it is ended, so that the next one has the site's files
        for itself.
        """
        try:
            answer = self.client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        except httpx.ConnectError:
            self.end()
            return None
        except httpx.HTTPError as error:
            log.warning("%s: %s", self.address, error)
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


def serve(site: Site, app: ClientApp) -> NoReturn:
    """Run the tasks of a site, until a signal ends this process.

    Args:
        site: Whose tasks.
        app: What runs them.
    """
    try:
        while True:
            site.reap()
            token = site.token()
            if token is not None:
                site.running.add(_forked(partial(_run, site, token, app)))
            time.sleep(POLL)
    finally:
        site.end()


def serve_each(sites: Sequence[Site], app: ClientApp) -> NoReturn:
    """Run the tasks of several sites, each from a process of its own: one that hangs holds up no other.

    Args:
        sites: Whose tasks.
        app: What runs them.
    """
    serving: dict[int, Site] = {}
    while True:
        for site in sites:
            if site not in serving.values():
                serving[_forked(partial(serve, site, app))] = site
        ended, _ = os.wait()
        serving.pop(ended, None)
        time.sleep(POLL)


def _forked(work: Callable[[], int]) -> int:
    """The number of a process that does the work and ends with what it returns, or with its parent."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            code = work()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # the process must not go on as a copy of its parent
        log.exception("A task's process failed.")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(site: Site, token: str, app: ClientApp) -> int:
    """Be the process of one task: what ``flwr-clientapp`` is, with an app that is there already."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if site.log is not None:
        with site.log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    speak(OURS)
    random.seed()
    np.random.seed()  # noqa: NPY002  # libraries that draw from it must not draw the same in every task
    (inflatable_utils.pull_and_inflate_object_from_tree.__kwdefaults__ or {}).update(initial_backoff=0.05)
    exit_handler.registered_exit_handlers.clear()
    vars(engine).update(
        install_from_fab=lambda *_, **__: Path(),
        get_load_client_app_fn=lambda *_, **__: lambda *_: app,
    )
    engine.run_clientapp(site.address, token, insecure=True)
    return 0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Import the app and run the tasks of the sites that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--node", action="append", required=True, help="Runtime API of a SuperNode on this machine, HOST:PORT[=LOG]."
    )
    parser.add_argument("--secret", type=Path, required=True, help="The SuperNode's --superexec-auth-secret-file.")
    parser.add_argument("--app", default=APP, help="MODULE:NAME of the ClientApp.")
    options = parser.parse_args(arguments)
    secret = options.secret.read_bytes()
    sites = []
    for node in options.node:
        address, _, file = node.partition("=")
        sites.append(Site(address, Path(file) if file else None, secret))
    for name in PRELOADED:
        importlib.import_module(name)
    module, _, name = options.app.partition(":")
    app = getattr(importlib.import_module(module), name)
    if not isinstance(app, ClientApp):
        raise TypeError(f"--app {options.app}: expected a ClientApp, got {type(app).__name__}.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if len(sites) == 1:
        serve(sites[0], app)
    serve_each(sites, app)


if __name__ == "__main__":
    main()
