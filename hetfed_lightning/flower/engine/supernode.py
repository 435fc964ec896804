"""A SuperNode that looks for messages four times a second: ``python -P supernode.py``, options of flower-supernode.

With ``--runtime-socket FILE`` it gives its tasks at a socket of its owner's alone, where the engine's own has a port of
loopback that every user of the machine reaches.

The engine's own sleeps three seconds between two looks, which every message of a round waits for. It also falls behind
by one message for good if a run ends, or the SuperLink is killed, just as it receives one: the message is dropped but
worked at, and from then on every answer is sent only when the next message comes. Here a message's own answer is waited
for.

A program, not a module to be imported: the package's own imports would cost its start seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

if __name__ == "__main__":
    _package = ModuleType("hetfed_lightning")  # Gives its submodules without its own imports.
    _package.__path__ = [str(Path(__file__).resolve().parents[2])]
    sys.modules["hetfed_lightning"] = _package

import uvicorn
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.logger import console_handler
from flwr.supernode import start_client_internal

from hetfed_lightning.flower.engine.log_budget import LogBudget
from hetfed_lightning.flower.engine.socket_files import short_path

engine = import_module("flwr.supernode.cli.flower_supernode")  # its package has a function of this name

LOST = 1
"""Exit code after the SuperLink has given the node up; the engine's program would stay, connected to nothing."""
LINES = 3000
"""Largest number of lines in its log in a minute. A message has six."""
LONGEST = 0.25
"""Longest sleep, seconds. Each look costs the SuperLink a signature's check, some milliseconds."""

Pull = Callable[..., int | None]
Push = Callable[..., None]


class NotingAnswers:
    """A node's state that records which messages have been answered.

    Args:
        state: The engine's state, which does all else.
    """

    def __init__(self, state: Any) -> None:
        self._state = state
        self.answered: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def delete_messages(self, *, message_ids: Sequence[str]) -> None:
        """Delete an answer and its message, as the engine does once it is sent or cannot be."""
        self.answered.update(message_ids)
        self._state.delete_messages(message_ids=message_ids)


def in_turn(pull: Pull, push: Push) -> tuple[Pull, Push]:
    """The engine's functions to receive and to answer, the second of which waits for the received message's answer.

    Args:
        pull: Function that receives a message; None without one, or if it is dropped.
        push: Function that waits for answers and sends them.
    """
    received = ""

    def pulled(*, receive: Callable[[], Any], **rest: Any) -> int | None:
        def noted() -> Any:
            nonlocal received
            found = receive()
            if found is not None:
                received = found[0].metadata.message_id
            return found

        return pull(receive=noted, **rest)

    def pushed(*, state: Any, **rest: Any) -> None:
        noting = NotingAnswers(state)
        while received not in noting.answered:
            push(state=noting, **rest)

    return pulled, pushed


def at_socket(file: Path) -> Callable[..., uvicorn.Config]:
    """Function that makes Uvicorn's configuration for a server at a socket in its owner's folder."""
    file.parent.chmod(0o700)
    return lambda **settings: uvicorn.Config(**{**settings, "uds": short_path(file), "ws": "none"})


def main() -> None:
    """Run the SuperNode with a shorter sleep, and with a socket in place of a port."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--runtime-socket", type=Path)
    options, rest = parser.parse_known_args()
    if options.runtime_socket is not None:
        vars(engine).update(uvicorn=SimpleNamespace(Server=uvicorn.Server, Config=at_socket(options.runtime_socket)))
    console_handler.addFilter(LogBudget(per_minute=LINES))
    patient = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, LONGEST)))
    pull, push = in_turn(start_client_internal._pull_and_store_message, start_client_internal._push_messages)
    vars(start_client_internal).update(time=patient, _pull_and_store_message=pull, _push_messages=push)
    # A message may be seen a moment before its content has arrived; the engine then waits a second.
    (inflatable_utils.pull_objects.__kwdefaults__ or {}).update(initial_backoff=0.05)
    sys.argv = ["flower-supernode", *rest]
    engine.flower_supernode()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(LOST)  # A thread of its own server would keep it alive.


if __name__ == "__main__":
    main()
