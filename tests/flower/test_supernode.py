"""A node's answers belong to the messages it has just received, also after a message was dropped."""

import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from flwr.app import Message, Metadata, RecordDict
from flwr.app.message.message import make_message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supernode import start_client_internal
from flwr.supernode.nodestate import NodeStateFactory

from hetfed_lightning.flower.engine.socket_files import ClientOfSocket
from hetfed_lightning.flower.engine.supernode import at_socket, in_turn
from hetfed_lightning.flower.engine.supernode_process import SuperNode
from tests.flower.engines import wait_until

LINK = start_client_internal


class Node:
    """The engine's two halves of receiving and answering, with a SuperLink made of lists."""

    def __init__(self, pull: Callable[..., int | None], push: Callable[..., None]) -> None:
        self.pull, self.push = pull, push
        objects = ObjectStoreFactory()
        self.state, self.store = NodeStateFactory(objectstore_factory=objects).state(), objects.store()
        self.state.set_node_id(1)
        self.state.store_run(Run.create_empty(7))
        self.waiting: list[Message] = []
        self.sent: list[str] = []
        self.ended = False
        self.objects: dict[str, bytes] = {}

    def turn(self) -> None:
        """What the engine's loop does: receive, and answer if something was received."""

        def receive() -> Any:
            if not self.waiting:
                return None
            message = self.waiting.pop(0)
            self.objects = {key: one.deflate() for key, one in get_all_nested_objects(message).items()}
            return message, get_object_tree(message)

        def pull(run: int, key: str) -> bytes:
            return self.objects[key]

        def confirm(run: int, message: str) -> None:
            if self.ended:
                raise RunNotRunningException

        def send(message: Message, *_: Any) -> tuple[set[str], str]:
            self.sent.append(message.metadata.reply_to_message_id)
            return set(), ""

        nothing: Any = None
        if self.pull(
            state=self.state, object_store=self.store, node_config={}, receive=receive, get_run=nothing,
            get_fab=nothing, pull_object=pull, confirm_message_received=confirm, trusted_entities=None,
        ) is not None:  # fmt: skip
            self.push(state=self.state, object_store=self.store, send=send, push_object=nothing)

    def answer(self, message: Message) -> None:
        """What the task's process does."""
        LINK._insert_message(Message(RecordDict(), reply_to=message), self.state, self.store)


def message(number: int) -> Message:
    metadata = Metadata(7, f"message {number}", 0, 1, "", "", time.time(), 3600.0, "train")
    return make_message(metadata, RecordDict())


def sent_after_a_message_was_dropped(
    pull: Callable[..., int | None], push: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Messages answered in the turn of the second, whose task takes a moment; the first was worked at nevertheless."""
    node, first, second = Node(pull, push), message(1), message(2)
    monkeypatch.setattr(LINK, "time", SimpleNamespace(sleep=lambda seconds: node.answer(second)))
    node.waiting, node.ended = [first], True
    node.turn()
    node.answer(first)
    node.waiting, node.ended = [second], False
    node.turn()
    return node.sent


def test_an_answer_does_not_wait_for_the_next_message(monkeypatch: pytest.MonkeyPatch) -> None:
    halves = in_turn(LINK._pull_and_store_message, LINK._push_messages)
    assert sent_after_a_message_was_dropped(*halves, monkeypatch) == ["message 1", "message 2"]


def test_the_engine_falls_behind_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    # Once this fails the engine has been mended, and in_turn can go.
    halves = (LINK._pull_and_store_message, LINK._push_messages)
    assert sent_after_a_message_was_dropped(*halves, monkeypatch) == ["message 1"]


# Where tasks are given out


async def health(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"well"})


@pytest.mark.promise("operator")
def test_tasks_are_given_at_a_socket_that_its_owner_alone_reaches(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)
    folder.mkdir(mode=0o755)
    file = folder / "tasks.socket"
    client: Any = ClientOfSocket(ProtobufClient, file).from_server_address(interceptors=[])
    server = uvicorn.Server(at_socket(file)(app=health, host="127.0.0.1", port=1, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, 10, "it listens")
        assert client._client.get("http://runtime/health").text == "well"
        assert stat.S_ISSOCK(file.stat().st_mode)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        client.close()
        server.should_exit = True
        thread.join()


@pytest.mark.promise("operator")
def test_a_site_listens_at_no_port(tmp_path: Path) -> None:
    node = SuperNode("clinic", "fl.example.org:8000", {}, tmp_path / "log", {}, socket=tmp_path / "tasks.socket")
    assert "--port" not in node.command
    assert node.command[-4:-2] == ["--isolation", "process"]
