"""Messages to several nodes and their answers by a deadline; nodes that drop out and return are asked again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from httpx import HTTPError

from hetfed_lightning.flower.protocol.inflating import at_most
from hetfed_lightning.flower.protocol.untrusted import one_line

log = logging.getLogger(__name__)

POLL = 0.1
"""Seconds between two looks for answers; the engine's own loop looks every 3."""

LOOK = 2.0
"""Seconds between two looks for nodes that were started again."""

GRACE = 20.0
"""Seconds for a dropped node to come back and be asked again; it takes three to start."""

ASKED = 3
"""Largest number of times that a node is asked, since one that ends each time would be asked until the deadline."""

PULLED = 16
"""Answers looked for at a time, each by a call to the engine; those of the others follow at the next look."""

_EXPIRED = frozenset({ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE})
"""Errors of the engine for a message that outlived its time, equal to the deadline."""


@dataclass(frozen=True)
class Fault:
    """Failure of a site to do what it was asked.

    Attributes:
        reason: A sentence's end, as in "hospital_a is left out: {reason}".
    """

    reason: str


class Requests:
    """One message to each of several nodes.

    A message to a node that was killed is lost: the engine delivers it once. It may have been carried out all the same.
    That does no harm, since a site returns to the place where an order begins.

    Args:
        grid: The engine's grid, which carries messages.
        content: Type and content of the message, by node.
        deadline: Seconds for all of them.
        names: Names of nodes, for messages.
        wait: Function called with seconds between two looks.
        sizes: Largest number of bytes of arrays in each node's answer.
    """

    def __init__(
        self,
        grid: Grid,
        content: Mapping[int, tuple[str, RecordDict]],
        deadline: float,
        names: Mapping[int, str],
        wait: Callable[[float], object],
        sizes: Mapping[int, int],
    ) -> None:
        self._grid = grid
        self._content = content
        self._deadline = deadline
        self._names = names
        self._wait = wait
        self._sizes = sizes
        self._found: dict[int, RecordDict | Fault] = {}
        self._pending: dict[str, int] = {}
        self._away: dict[int, tuple[float, Fault]] = {}
        self._asked = dict.fromkeys(content, 0)

    def answers(self) -> dict[int, RecordDict | Fault]:
        """Answers by node, once all have come or the deadline has passed; a fault for a missing one."""
        self._began = looked = time.monotonic()
        self._activated = self._activations()
        self._send(self._content)
        while self._pending or self._away:
            now = time.monotonic()
            self._gather(now)
            if (self._pending or self._away) and now - looked >= LOOK:
                looked = now
                self._look(now)
            if now - self._began >= self._deadline:
                break
            if self._pending or self._away:
                self._wait(POLL)
        late = Fault(f"no answer within {self._deadline:g} s (deadline)")
        gone = {node: fault for node, (_, fault) in self._away.items()}
        return {node: self._found.get(node, gone.get(node, late)) for node in self._content}

    def _send(self, nodes: Iterable[int]) -> None:
        for node in nodes:
            kind, records = self._content[node]
            message = Message(records, dst_node_id=node, message_type=kind, ttl=self._deadline)
            number = "".join(filter(None, self._grid.push_messages([message])))
            self._asked[node] += 1
            if number:
                self._pending[number] = node
            else:
                self._found[node] = Fault("the engine took no message for it: is its node registered?")

    def _gather(self, now: float) -> None:
        """Take in answers that have come.

        One message at a time: if one of several cannot be taken apart, the engine has forgotten the others too.
        """
        numbers = list(self._pending)[:PULLED]
        for number in numbers:
            node = self._pending.pop(number)
            try:
                with at_most(self._sizes[node]):
                    answers = list(self._grid.pull_messages([number]))
                for answer in answers:
                    self._take(node, answer, now)
                    break
                else:
                    self._pending[number] = node  # Put behind the others, whose turn is next.
            except (OSError, HTTPError):
                raise  # The engine cannot be reached.
            except Exception as error:  # noqa: BLE001 - a message that cannot be taken apart is its site's fault alone
                self._found[node] = Fault(
                    f"its answer cannot be taken apart: {type(error).__name__}: {one_line(str(error))}"
                )

    def _take(self, node: int, answer: Message, now: float) -> None:
        if not answer.has_error():
            self._found[node] = answer.content
            return
        if answer.error.code in _EXPIRED and now - self._began >= self._deadline - LOOK:
            return  # The engine's clock passed the deadline before ours.
        said = one_line(answer.error.reason) or str(answer.error.code)
        fault = Fault(f"its node reports an error ({said})")
        if answer.error.code == ErrorCode.NODE_UNAVAILABLE and self._asked[node] < ASKED:
            self._away[node] = now, fault
        else:
            self._found[node] = fault

    def _look(self, now: float) -> None:
        """Ask returned nodes again, and give up those that stay away."""
        before, self._activated = self._activated, self._activations()
        lost = [number for number, node in self._pending.items() if self._activated.get(node) != before.get(node)]
        for number in lost:
            node = self._pending.pop(number)
            fault = Fault("its node is no longer connected")
            if self._asked[node] < ASKED:
                self._away[node] = now, fault
            else:
                self._found[node] = fault
        for node, (since, fault) in list(self._away.items()):
            if node in self._activated:
                del self._away[node]
                log.info("%s is back and is asked again.", self._names.get(node, f"Node {node}"))
                self._send([node])
            elif now - since >= GRACE:
                del self._away[node]
                self._found[node] = fault

    def _activations(self) -> dict[int, str]:
        """Start time of each connected node."""
        return {node: one.last_activated_at for node, one in online_nodes(self._grid).items()}


def online_nodes(grid: Grid) -> dict[int, Any]:
    """The engine's entry of each connected node, by its number."""
    return {node.node_id: node for node in grid.get_nodes() if node.status == "online"}
