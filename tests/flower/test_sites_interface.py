"""What a site with a registered key can do with the sites' interface, beyond what its own program does."""

from __future__ import annotations

import base64
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import HTTPException
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PushObjectRequest, PushObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from hetfed_lightning.flower.deploy.reply_limit import reply_bytes
from hetfed_lightning.flower.engine.limits import Limits
from hetfed_lightning.flower.engine.log_budget import LogBudget, plain
from hetfed_lightning.flower.engine.sites_interface import SitesInterface, signer_of

pytestmark = pytest.mark.promise("strangers")

COORDINATOR, SITE, OTHER = 1, 17, 18


class Engine:
    """The engine's handlers, which take whatever they get; sites have orders as often as they look."""

    def __init__(self, reply: int = 10_000) -> None:
        self.taken: list[Any] = []
        self.orders = True
        self.rules = SitesInterface(self._pull, self._push, self._object, reply)

    def _pull(self, *, request: Any, state: str) -> PullMessagesResponse:
        return PullMessagesResponse(messages_list=[Message()] if self.orders else [])

    def _push(self, *, request: Any, state: str) -> PushMessagesResponse:
        self.taken.append(request)
        return PushMessagesResponse(session_id=state)

    def _object(self, *, request: Any, state: str) -> PushObjectResponse:
        self.taken.append(request)
        return PushObjectResponse(stored=True)

    def pushed(self, messages: list[Message], trees: int | None = None) -> PushMessagesResponse:
        listed = [ObjectTree(object_id="0" * 64)] * (len(messages) if trees is None else trees)
        request = PushMessagesRequest(node=Node(node_id=SITE), messages_list=messages, message_object_trees=listed)
        return self.rules.push_messages(request=request, state="session")

    def leave(self, size: int, site: int = SITE) -> bool:
        request = PushObjectRequest(node=Node(node_id=site), object_content=bytes(size))
        return self.rules.push_object(request=request, state="").stored

    def look(self, site: int = SITE) -> None:
        self.rules.pull_messages(request=PullMessagesRequest(node=Node(node_id=site)), state="")


def message(source: int = SITE, replies_to: str = "order", destination: int = COORDINATOR) -> Message:
    told = Metadata(src_node_id=source, dst_node_id=destination, reply_to_message_id=replies_to)
    return Message(metadata=told)


def test_an_answer_is_taken() -> None:
    engine = Engine()
    assert engine.pushed([message()]).session_id == "session"
    assert len(engine.taken) == 1


@pytest.mark.parametrize(
    ("messages", "trees"),
    [
        ([message(COORDINATOR, "", OTHER)], 1),
        ([message(COORDINATOR, "order", OTHER)], 1),
        ([message(OTHER)], 1),
        ([message(replies_to="")], 1),
        ([], 0),
        ([message(), message()], 2),
        ([message()], 2),
        ([message()], 0),
    ],
    ids=["an order to another", "another's", "in another's name", "no reply", "none", "two", "two trees", "no tree"],
)
def test_a_site_answers_in_its_own_name_and_orders_nobody(messages: list[Message], trees: int) -> None:
    engine = Engine()
    with pytest.raises(HTTPException) as refused:
        engine.pushed(messages, trees)
    assert refused.value.status_code == 403
    assert engine.taken == []


def test_what_a_site_leaves_for_one_order_is_bounded() -> None:
    engine = Engine(reply=10_000)
    assert engine.leave(6_000)
    assert engine.leave(4_000)
    with pytest.raises(HTTPException, match="it has left 10001 bytes for one order, of 10000 that it may") as refused:
        engine.leave(1)
    assert refused.value.status_code == 413
    assert engine.leave(9_000, OTHER), "another has its own"
    engine.orders = False
    engine.look()
    with pytest.raises(HTTPException):
        engine.leave(1)
    with pytest.raises(HTTPException):
        engine.pushed([message()])
    engine.orders = True
    engine.look()
    assert engine.leave(10_000)


def test_what_an_answer_may_take_by_hand(tmp_path: Path) -> None:
    shared = tmp_path / "shared.json"
    assert reply_bytes(shared) == Limits.reply == 4 << 30
    shared.write_text(
        '{"a": {"weight": [[3, 4], "float32"], "count": [[], "int64"]}, "b": {"weight": [[2], "float64"]}}',
        encoding="utf-8",
    )
    assert reply_bytes(shared) == (1 << 30) + 4 * 8 * (3 * 4 + 1)


# Whose call it is, before its body is read


def signed(
    key: ec.EllipticCurvePrivateKey, changed: dict[str, str] | None = None, *, age: float = 0.0
) -> list[tuple[bytes, bytes]]:
    timestamp = (now() - timedelta(seconds=age)).isoformat()
    headers = {
        "flwr-public-key": base64.b64encode(public_key_to_bytes(key.public_key())).decode(),
        "flwr-signature": base64.b64encode(sign_message(key, timestamp.encode())).decode(),
        "flwr-timestamp": timestamp,
    }
    return [(name.encode(), value.encode()) for name, value in (headers | (changed or {})).items()]


def test_only_a_registered_key_signs() -> None:
    site, stranger = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    known = public_key_to_bytes(site.public_key())

    def signer(headers: list[tuple[bytes, bytes]]) -> bytes | None:
        return signer_of(headers, lambda key: key == known)

    assert signer(signed(site)) == known
    assert signer(signed(stranger)) is None
    of_the_stranger = dict(signed(stranger))[b"flwr-signature"].decode()
    assert signer(signed(site, {"flwr-signature": of_the_stranger})) is None
    assert signer(signed(site, age=400)) is None
    assert signer(signed(site, age=-60)) is None
    assert signer([]) is None
    for name in ("flwr-public-key", "flwr-signature", "flwr-timestamp"):
        for value in ("", "%%%", "AAAA", "2026-01-01", "9" * 400, "\x00"):
            assert signer(signed(site, {name: value})) is None


# What is written of it


def test_lines_are_cut_plain_and_few() -> None:
    passed = 0.0
    budget = LogBudget(per_minute=3, clock=lambda: passed)

    def written(text: str, *arguments: object) -> str | None:
        record = logging.LogRecord("engine", logging.INFO, "", 0, text, arguments, None)
        return record.getMessage() if budget.filter(record) else None

    assert written("from %s", "a\nINFO: all is well\x1b[2J\u202e") == r"from a\nINFO: all is well\x1b[2J\u202e"
    found = written("x" * 10_000)
    assert found == "x" * 400 + "... (10000 characters)"
    assert written("100 %") == "What else is said in this minute is left out."
    assert written("one more") is None
    passed = 60.0
    assert written("100 %") == "100 %"


def test_what_went_wrong_is_written_without_the_controls_of_others() -> None:
    try:
        raise ValueError("words\x1b[2J\nForged: line")
    except ValueError as error:
        record = logging.LogRecord("engine", logging.ERROR, "", 0, "failed", (), (type(error), error, None))
    assert LogBudget().filter(record)
    assert "\x1b" not in logging.Formatter().format(record)
    assert plain("ü 😀\t") == "ü 😀\\t"
