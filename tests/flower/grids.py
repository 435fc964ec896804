"""An engine in this process: sites are called directly, messages are kept, and faults happen as they are told to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from hetfed_lightning.flower.protocol.messages import DESCRIBE, description_content, order_of, reply_content
from hetfed_lightning.flower.protocol.orders import Order, Reply
from hetfed_lightning.flower.site.site import Site

Alter = Callable[[Order, Reply], Any]
"""What a faulty site makes of its reply: another one, records, an error, or None for no answer at all."""


class FakeGrid(Grid):
    """Nodes 1, 2, ... for sites in their order.

    Attributes:
        sites: By name.
        sent: Every message with its answer, in order: name, type, content down, content up.
        online: Whose nodes are connected.
        faults: By name, what becomes of replies.
        hooks: Called with name and order before an order is carried out.
    """

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self.sites = dict(sites)
        self.sent: list[tuple[str, str, RecordDict, RecordDict | None]] = []
        self.online = set(sites)
        self.faults: dict[str, Alter] = {}
        self.hooks: list[Callable[[str, Order], None]] = []
        self.registered = {name: name for name in sites}
        self.started = dict.fromkeys(sites, "1")
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 99, 1
        self._answers: dict[str, Message] = {}
        self._count = 0

    def node_of(self, name: str) -> int:
        """A site's node."""
        return list(self.sites).index(name) + 1

    def get_nodes(self) -> Any:
        return [
            SimpleNamespace(
                node_id=self.node_of(name),
                name=self.registered.get(name, ""),
                status="online" if name in self.online else "offline",
                last_activated_at=self.started.get(name, "1"),
            )
            for name in self.sites
        ]

    def get_node_ids(self) -> list[int]:
        return [self.node_of(name) for name in self.sites if name in self.online]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        numbers = []
        for message in messages:
            self._count += 1
            number = str(self._count)
            message.metadata.__dict__["_message_id"] = number
            name = list(self.sites)[message.metadata.dst_node_id - 1]
            answer = self._answered(name, message)
            content = None if answer is None or answer.has_error() else answer.content
            self.sent.append((name, message.metadata.message_type, message.content, content))
            if answer is not None:
                self._answers[number] = answer
            numbers.append(number)
        return numbers

    def _answered(self, name: str, message: Message) -> Message | None:
        site = self.sites[name]
        if message.metadata.message_type == DESCRIBE:
            try:
                return Message(description_content(site.describe()), reply_to=message)
            except Exception as error:  # noqa: BLE001 - as the engine does
                return Message(Error(1, f"{type(error)}:<'{error}'>"), reply_to=message)
        order = order_of(message.content)
        for hook in self.hooks:
            hook(name, order)
        try:
            reply: Any = site.carry_out(order)
        except Exception as error:  # noqa: BLE001 - as the engine does
            return Message(Error(1, f"{type(error)}:<'{error}'>"), reply_to=message)
        if name in self.faults:
            reply = self.faults[name](order, reply)
        if reply is None:
            return None
        if isinstance(reply, Error):
            return Message(reply, reply_to=message)
        return Message(reply if isinstance(reply, RecordDict) else reply_content(reply), reply_to=message)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._answers.pop(number) for number in message_ids if number in self._answers]

    # What nobody asks of it

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError
