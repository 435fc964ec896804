"""Orders to many sites at once and their answers within a deadline, whatever goes wrong at any of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from flwr.app import RecordDict
from flwr.serverapp import Grid

from hetfed_lightning.flower.coordinator.requests import Fault, Requests, online_nodes
from hetfed_lightning.flower.protocol.description import Description
from hetfed_lightning.flower.protocol.messages import DESCRIBE, WORK, description_of, order_content, reply_of
from hetfed_lightning.flower.protocol.orders import Order, Reply
from hetfed_lightning.flower.protocol.records import RecordsError
from hetfed_lightning.flower.protocol.reply_checks import wanted
from hetfed_lightning.flower.protocol.untrusted import one_line

log = logging.getLogger(__name__)

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Node:
    """What the engine knows of a node that is connected.

    Attributes:
        registered: The name that its key was registered under; empty for none.
        since: When it was started.
    """

    registered: str
    since: str


class Messenger:
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

    def online(self) -> dict[int, Node]:
        """Nodes that are connected, by number."""
        return {number: Node(one.name, one.last_activated_at) for number, one in online_nodes(self._grid).items()}

    def describe(self, nodes: Iterable[int], deadline: float) -> dict[int, Description | Fault]:
        """What sites bring along, by node.

        Args:
            nodes: Whom to ask.
            deadline: Seconds for all of them.
        """
        content = {node: (DESCRIBE, RecordDict()) for node in nodes}
        return {
            node: answer if isinstance(answer, Fault) else read_or_fault(answer, description_of)
            for node, answer in self._send(content, deadline, dict.fromkeys(content, 0)).items()
        }

    def carry_out(
        self, orders: Mapping[str, Order], deadline: float, descriptions: Mapping[str, Description]
    ) -> dict[str, Reply | Fault]:
        """Send orders and gather what comes back in time, in the order of ``orders``.

        Args:
            orders: By participant.
            deadline: Seconds for all of them.
            descriptions: What each of them said of itself: a reply of another layout is not read.
        """
        content = {self.nodes[name]: (WORK, order_content(order)) for name, order in orders.items()}
        expected = {name: wanted(order, descriptions[name]) for name, order in orders.items()}
        answers = self._send(content, deadline, {self.nodes[name]: one.most_bytes for name, one in expected.items()})
        found: dict[str, Reply | Fault] = {}
        for name in orders:
            answer = answers[self.nodes[name]]
            reader = partial(reply_of, wanted=expected[name])
            found[name] = answer if isinstance(answer, Fault) else read_or_fault(answer, reader)
        return found

    def _send(
        self, content: Mapping[int, tuple[str, RecordDict]], deadline: float, sizes: Mapping[int, int]
    ) -> dict[int, RecordDict | Fault]:
        names = {node: name for name, node in self.nodes.items()}
        return Requests(self._grid, content, deadline, names, self._wait, sizes).answers()


def read_or_fault(content: S, reader: Callable[[S], T]) -> T | Fault:
    """What a reader makes of a site's words; whatever it ends with is the fault of the site alone."""
    try:
        return reader(content)
    except RecordsError as error:
        return Fault(f"its answer cannot be read: {one_line(str(error)).rstrip('.')}")
    except Exception as error:  # MemoryError and RecursionError among them: the others' run goes on.
        log.debug("A site's answer could not be read.", exc_info=True)
        return Fault(f"its answer cannot be read: {type(error).__name__}: {one_line(str(error)).rstrip('.')}")
