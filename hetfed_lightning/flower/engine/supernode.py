"""A SuperNode that looks for messages four times a second: ``python -P supernode.py``, options of flower-supernode.

The engine's own sleeps three seconds between two looks, which every message of a round waits for. It also falls behind
by one message for good when a run ends, or the SuperLink is killed, just as it receives one: the message is dropped and
worked at nevertheless, and from then on every answer is sent when the next message comes. Here a message's own answer
is waited for.

A program, not a module to be imported: the package's own imports would cost its start seconds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from flwr.supercore.inflatable import inflatable_utils
from flwr.supernode import start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode

LOST = 1
"""Exit code where the SuperLink has given the node up; the engine's program would stay, connected to nothing."""
LONGEST = 0.25
"""Seconds. Each look costs the SuperLink a signature's check, some milliseconds."""

Pull = Callable[..., int | None]
Push = Callable[..., None]


class NotingAnswers:
    """A node's state that notes to which messages answers have been dealt with.

    Args:
        state: The engine's, which does all else.
    """

    def __init__(self, state: Any) -> None:
        self._state = state
        self.answered: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def delete_messages(self, *, message_ids: Sequence[str]) -> None:
        """Forget an answer and the message it answers, which the engine does once it is sent or cannot be."""
        self.answered.update(message_ids)
        self._state.delete_messages(message_ids=message_ids)


def in_turn(pull: Pull, push: Push) -> tuple[Pull, Push]:
    """The engine's two halves of receiving and answering, the second of which goes on until the received is answered.

    Args:
        pull: Receives a message; None where there is none, or it is dropped.
        push: Waits for answers and sends those that are there.
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


def main() -> None:
    """Run the SuperNode with a shorter sleep."""
    patient = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, LONGEST)))
    pull, push = in_turn(start_client_internal._pull_and_store_message, start_client_internal._push_messages)
    vars(start_client_internal).update(time=patient, _pull_and_store_message=pull, _push_messages=push)
    # A message may be seen a moment before its content has arrived; the engine then waits a second.
    (inflatable_utils.pull_objects.__kwdefaults__ or {}).update(initial_backoff=0.05)
    sys.argv[0] = "flower-supernode"
    flower_supernode()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(LOST)  # a thread of its own server would keep it


if __name__ == "__main__":
    main()
