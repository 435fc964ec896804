"""Executor of tasks, in processes forked from one with all imports done, so that no message waits for a start-up.

The engine starts a program per message and per run, which imports torch and Lightning for seconds before it works. It
also passes the token of its task on a command line that every user of the machine can read. This process replaces the
one that would start them (``--isolation process`` of SuperNode and SuperLink); tokens stay in its memory.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from hetfed_lightning.flower.engine.operator_secret import read_secret
from hetfed_lightning.flower.engine.settings import POLL
from hetfed_lightning.flower.engine.tasks import OURS, ServerTasks, SiteTasks, TaskSource

__all__ = ["APP", "OURS", "SERVER_APP", "command", "main"]

APP = "hetfed_lightning.flower.client_app:app"
SERVER_APP = "hetfed_lightning.flower.server_app:app"
PRELOADED = (
    "hetfed_lightning.flower.site.site_parts",
    "hetfed_lightning.backbones",
    "hetfed_lightning.heads",
    "torch.utils.tensorboard",
    "sklearn.datasets",
)
"""Modules that sites' tasks import later than the app: a second for every message, if they were not imported here."""
PRELOADED_FOR_SERVER = (
    "hetfed_lightning.flower.coordinator.coordinator",
    "hetfed_lightning.flower.coordinator.journal",
    "hetfed_lightning.flower.coordinator.server_config",
)
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_App = TypeVar("_App")

log = logging.getLogger(__name__)


def command(*arguments: str) -> list[str]:
    """Command that starts this program from this package's folder, without imports from the current folder.

    ``python -m`` would look there first, though every user may be able to leave a file called torch.py in it.
    """
    root = str(Path(__file__).resolve().parents[3])
    start = f"import sys; sys.path.append({root!r}); from hetfed_lightning.flower.engine.executor import main; main()"
    return [sys.executable, "-P", "-c", start, *arguments]


def serve(source: TaskSource) -> NoReturn:
    """Run the tasks of one source, until a signal ends this process.

    Args:
        source: Source of the tasks.
    """
    try:
        while True:
            source.reap()
            token = source.token()
            if token is not None:
                source.running.add(_forked(partial(source.run, token)))
            time.sleep(POLL)
    finally:
        source.end()


def serve_each(sources: Sequence[TaskSource]) -> NoReturn:
    """Run the tasks of several sources, each in a process of its own, so that one that hangs delays no other.

    Args:
        sources: Sources of the tasks.
    """
    serving: dict[int, TaskSource] = {}
    while True:
        for source in sources:
            if source not in serving.values():
                serving[_forked(partial(serve, source))] = source
        ended, _ = os.wait()
        serving.pop(ended, None)
        time.sleep(POLL)


def _forked(work: Callable[[], int]) -> int:
    """Number of a process that calls ``work`` and ends with its result, or with its parent."""
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
    except BaseException:  # The process must not go on as a copy of its parent.
        log.exception("A task's process failed.")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _loaded(reference: str, kind: type[_App], preloaded: Sequence[str]) -> _App:
    """App of a reference, MODULE:NAME, imported after ``preloaded``.

    Raises:
        TypeError: If it is of another type.
    """
    for name in preloaded:
        importlib.import_module(name)
    module, _, name = reference.partition(":")
    app = getattr(importlib.import_module(module), name)
    if not isinstance(app, kind):
        raise TypeError(f"{reference}: expected a {kind.__name__}, got {type(app).__name__}.")
    return app


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Import the apps and run the tasks of the sites and of the SuperLink on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--node",
        type=Path,
        nargs=2,
        action="append",
        default=[],
        metavar=("SOCKET", "LOG"),
        help="At which a SuperNode gives its tasks, and what they write to.",
    )
    parser.add_argument("--app", default=APP, help="MODULE:NAME of the ClientApp.")
    parser.add_argument("--server", help="HOST:PORT of a SuperLink on this machine, whose runs are led here.")
    parser.add_argument("--operator-secret", type=Path, help="The SuperLink's.")
    parser.add_argument("--ca", type=Path, help="Certificate by which the SuperLink is known; else plain text.")
    parser.add_argument("--server-app", default=SERVER_APP, help="MODULE:NAME of the ServerApp.")
    options = parser.parse_args(arguments)
    sources: list[TaskSource] = []
    if options.server is not None:
        leads = _loaded(options.server_app, ServerApp, PRELOADED_FOR_SERVER)
        authority = None if options.ca is None else options.ca.read_bytes()
        sources.append(ServerTasks(options.server, read_secret(options.operator_secret), leads, authority))
    if options.node:
        app = _loaded(options.app, ClientApp, PRELOADED)
        sources += [SiteTasks(socket, app, file) for socket, file in options.node]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if len(sources) == 1:
        serve(sources[0])
    serve_each(sources)


if __name__ == "__main__":
    main()
