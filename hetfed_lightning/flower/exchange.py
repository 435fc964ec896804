"""Orders to many sites at once and their answers within a deadline, whatever goes wrong at any of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from hetfed_lightning.flower.description import Description
from hetfed_lightning.flower.messages import DESCRIBE, WORK, description_of, order_content, reply_of
from hetfed_lightning.flower.orders import Order, Reply
from hetfed_lightning.flower.records import RecordsError

log = logging.getLogger(__name__)

POLL = 0.2
"""Seconds between two looks for answers; the engine's own loop looks every 3."""

LOOK = 2.0
"""Seconds between two looks for nodes that were started again."""


@dataclass(frozen=True)
class Fault:
    """Why a site has not done what it was asked.

    Attributes:
        reason: A sentence's end, as in "hospital_a is left out: {reason}".
    """

    reason: str


class Exchange:
    """What passes between the coordinator and the sites, by the engine's grid.

    Args:
        grid: The engine's.
        wait: Called with seconds between two looks.
    """

    def __init__(self, grid: Grid, wait: Callable[[float], object] = time.sleep) -> None:
        self._grid = grid
        self._wait = wait
        self.nodes: dict[str, int] = {}
        """The node of each participant that has described itself."""
        self.spent: dict[str, float] = {}
        """Seconds from the last order to its answer, by participant."""

    def online(self) -> dict[int, str]:
        """Nodes that are connected, and the name that each was registered with; empty for none."""
        return {node.node_id: node.name for node in self._grid.get_nodes() if node.status == "online"}

    def describe(self, nodes: Iterable[int], deadline: float) -> dict[int, Description | Fault]:
        """What sites bring along, by node.

        Args:
            nodes: Whom to ask.
            deadline: Seconds for all of them.
        """
        content = {node: (DESCRIBE, RecordDict()) for node in nodes}
        return {
            node: answer if isinstance(answer, Fault) else _read(answer, description_of)
            for node, answer in self._send(content, deadline).items()
        }

    def carry_out(self, orders: Mapping[str, Order], deadline: float) -> dict[str, Reply | Fault]:
        """Send orders and gather what comes back in time, in the order of ``orders``.

        Args:
            orders: By participant.
            deadline: Seconds for all of them.
        """
        content = {self.nodes[name]: (WORK, order_content(order)) for name, order in orders.items()}
        answers = self._send(content, deadline)
        found: dict[str, Reply | Fault] = {}
        for name in orders:
            answer = answers[self.nodes[name]]
            found[name] = answer if isinstance(answer, Fault) else _read(answer, reply_of)
        return found

    def _send(self, content: Mapping[int, tuple[str, RecordDict]], deadline: float) -> dict[int, RecordDict | Fault]:
        names = {node: name for name, node in self.nodes.items()}
        began = time.monotonic()
        found: dict[int, RecordDict | Fault] = {}
        pending: dict[str, int] = {}
        activated = self._activated()

        def send(nodes: Iterable[int]) -> None:
            for node in nodes:
                kind, records = content[node]
                number = self._pushed(Message(records, dst_node_id=node, message_type=kind, ttl=deadline))
                if number:
                    pending[number] = node
                else:
                    found[node] = Fault("the engine took no message for it: is its node registered?")

        send(content)
        looked = began
        while pending:
            now = time.monotonic()
            for answer in self._grid.pull_messages(list(pending)):
                node = pending.pop(answer.metadata.reply_to_message_id, None)
                if node is not None:
                    found[node] = _content(answer)
                    self.spent[names.get(node, str(node))] = time.monotonic() - began
            if pending and now - looked >= LOOK:
                looked, before = now, activated
                activated = self._activated()
                again = {n: node for n, node in pending.items() if activated.get(node) != before.get(node)}
                for number, node in again.items():
                    log.info("%s has been started again and is asked once more.", names.get(node, node))
                    del pending[number]
                send([node for node in again.values() if node in activated])
                found |= {
                    node: Fault("its node is no longer connected") for node in again.values() if node not in activated
                }
            if pending and now - began >= deadline:
                break
            if pending:
                self._wait(POLL)
        late = Fault(f"no answer within {deadline:g} s (deadline)")
        return {node: found.get(node, late) for node in content}

    def _activated(self) -> dict[int, str]:
        """When each connected node was started; a message that a node took before it was killed is lost."""
        return {node.node_id: node.last_activated_at for node in self._grid.get_nodes() if node.status == "online"}

    def _pushed(self, message: Message) -> str:
        """The engine's number of a message; empty where it took none."""
        return "".join(filter(None, self._grid.push_messages([message])))


def _content(answer: Message) -> RecordDict | Fault:
    if answer.has_error():
        return Fault(f"its node reports an error ({shortened(answer.error.reason or str(answer.error.code))})")
    return answer.content


def _read(content: RecordDict, reader: Callable[[RecordDict], Any]) -> Any:
    try:
        return reader(content)
    except RecordsError as error:
        return Fault(f"its answer cannot be read: {shortened(str(error)).rstrip('.')}")


def shortened(text: str, most: int = 300) -> str:
    """A text that came from elsewhere, on one line and of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
