"""Orders to many sites at once and their replies within a deadline, whatever goes wrong at any of them."""

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
    """A connected node, as the engine knows it.

    Attributes:
        registered: Name that its key was registered under; empty for none.
        since: Time at which it was started.
    """

    registered: str
    since: str


class Messenger:
    """Messenger between the coordinator and the sites, over the engine's grid.

    Args:
        grid: The engine's grid, which carries messages.
        wait: Function called with seconds between two looks.
    """

    def __init__(self, grid: Grid, wait: Callable[[float], object] = time.sleep) -> None:
        self._grid = grid
        self._wait = wait
        self.nodes: dict[str, int] = {}
        """Node of each participant that has described itself."""

    def online(self) -> dict[int, Node]:
        """Connected nodes, by number."""
        return {number: Node(one.name, one.last_activated_at) for number, one in online_nodes(self._grid).items()}

    def describe(self, nodes: Iterable[int], deadline: float) -> dict[int, Description | Fault]:
        """Descriptions of sites, by node.

        Args:
            nodes: Nodes to ask.
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
        """Replies to orders that come in time, in the order of ``orders``; a fault for any other site.

        Args:
            orders: Orders by participant.
            deadline: Seconds for all of them.
            descriptions: Descriptions of the participants; a reply of another layout is not read.
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
    """Result of reading a site's message; any error is a fault of that site alone.

    Args:
        content: The message.
        reader: Function that reads it.
    """
    try:
        return reader(content)
    except RecordsError as error:
        return Fault(f"its answer cannot be read: {one_line(str(error)).rstrip('.')}")
    except Exception as error:  # MemoryError and RecursionError too: the run goes on for the other sites.
        log.debug("A site's answer could not be read.", exc_info=True)
        return Fault(f"its answer cannot be read: {type(error).__name__}: {one_line(str(error)).rstrip('.')}")
