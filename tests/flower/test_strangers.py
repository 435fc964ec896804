"""What whoever reaches a coordinator's port can use up of it, with our entrance in this process and real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from hetfed_lightning.flower.engine.connections import Connections, network_of
from hetfed_lightning.flower.engine.guard import Guard, Scope
from hetfed_lightning.flower.engine.limits import MIB, Limits
from hetfed_lightning.flower.engine.operator_secret import HEADER
from hetfed_lightning.flower.engine.serving import GuardedServer
from hetfed_lightning.flower.engine.settings import free_ports
from hetfed_lightning.flower.files.certificates import make_authority, make_server_certificate

pytestmark = pytest.mark.promise("strangers")

SECRET = "operator"  # noqa: S105  # of a test
PULL = "/v1/fleet/pull-messages"
SITE = b"a registered key"
SHORT = Limits(
    unproven=12, unproven_of_address=6, connections=20,
    handshake=0.6, head=0.6, body=0.6, stall=0.8, look=0.1, graceful=0.1,
)  # fmt: skip
"""So that a test takes moments."""


ANSWER = 18 * MIB
"""Bytes; what the kernel keeps for both sides is less."""


class Engine:
    """Stands for the engine's app: reads all of a body, says how much that was, and refuses who is unsigned."""

    def __init__(self) -> None:
        self.read: list[int] = []
        self.reading = 0

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        size, more = 0, True
        self.reading += 1
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                size, more = size + len(message["body"]), message["more_body"]
        finally:
            self.reading -= 1
        self.read.append(size)
        status = 200 if scope["path"] == "/health" or _signer(scope["headers"]) else 401
        body = b"x" * ANSWER if scope["path"].endswith("pull-object") else str(size).encode()
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]}
        )
        await send({"type": "http.response.body", "body": body})


def _signer(headers: Any) -> bytes | None:
    return SITE if dict(headers).get(b"signed") == b"yes" else None


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder: Path = tmp_path_factory.mktemp("tls")
    made = make_server_certificate(make_authority())
    (folder / "server.pem").write_bytes(made.pem)
    (folder / "key.pem").write_bytes(made.key_pem)
    return {"ssl_certfile": str(folder / "server.pem"), "ssl_keyfile": str(folder / "key.pem")}


@asynccontextmanager
async def served(limits: Limits, tls: dict[str, str] | None = None) -> AsyncIterator[tuple[Engine, GuardedServer, int]]:
    """An engine behind guard and entrance, and the port at which it listens."""
    engine = Engine()
    (port,) = free_ports(1)
    guard: Any = Guard(engine, SECRET, _signer, limits)
    config = uvicorn.Config(
        guard, port=port, http="h11", ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1,
        **(tls or {}),  # type: ignore[arg-type]  # two paths
    )  # fmt: skip
    server = GuardedServer(config, limits)
    running = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield engine, server, port
    finally:
        while OPENED:
            OPENED.pop().close()
        server.should_exit = server.force_exit = True
        await running


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
OPENED: list[asyncio.StreamWriter] = []


async def connected(port: int, tls: dict[str, str] | None = None) -> Stream:
    context = None
    if tls is not None:
        context = ssl.create_default_context(cafile=tls["ssl_certfile"])
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    stream = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    OPENED.append(stream[1])
    return stream


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


async def answer(stream: Stream, sent: bytes) -> bytes:
    """The first line of what is answered; nothing where the connection is closed."""
    reader, writer = stream
    with suppress(ConnectionError):
        writer.write(sent)
        await writer.drain()
    with suppress(ConnectionError):
        return (await asyncio.wait_for(reader.readline(), 5)).strip()
    return b""


async def asked(port: int, path: str = PULL, size: int = 10, *lines: str, tls: Any = None) -> bytes:
    """What a call of its own connection is answered."""
    stream = await connected(port, tls)
    try:
        return await answer(stream, head(path, f"Content-Length: {size}", *lines) + bytes(size))
    finally:
        stream[1].close()


async def is_closed(stream: Stream, seconds: float = 4) -> bool:
    """Whether the other side ends a connection."""
    with suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(seconds):
            while await stream[0].read(1 << 20):
                pass
        return True
    return stream[0].at_eof() or stream[0].exception() is not None


def run(test: Callable[[], Any]) -> None:
    """Run a coroutine on asyncio's own loop, as the coordinator does."""
    asyncio.run(test())


OK, SIGNED, LONG = b"HTTP/1.1 200 OK", "signed: yes", 1 * MIB


# Sizes


def test_a_body_is_read_as_far_as_it_is_due() -> None:
    async def test() -> None:
        async with served(replace(SHORT, request=2 * MIB, unsigned=1000)) as (engine, _, port):
            assert await asked(port, PULL, 1000, SIGNED) == OK
            assert (await asked(port, size=1000)).startswith(b"HTTP/1.1 401"), "the engine answers that"
            assert engine.read == [1000, 1000]
            assert (await asked(port, size=1001)).startswith(b"HTTP/1.1 401")
            assert (await asked(port, "/health", 1001)).startswith(b"HTTP/1.1 401")
            assert (await asked(port, "/v1/fleet/push-object", 2 * MIB + 1, SIGNED)).startswith(b"HTTP/1.1 413")
            assert (await asked(port, "/v1/control/start-run", 10)).startswith(b"HTTP/1.1 403")
            assert engine.read == [1000, 1000], "of what is refused nothing is read"
            assert await asked(port, "/v1/fleet/push-object", 2 * MIB, SIGNED) == OK
            assert await asked(port, "/v1/control/start-run", 3 * MIB, f"{HEADER}: {SECRET}", SIGNED) == OK
            assert engine.read[2:] == [2 * MIB, 3 * MIB]

    run(test)


@pytest.mark.parametrize(
    "lines", [["Transfer-Encoding: chunked"], ["Transfer-Encoding: chunked", SIGNED], ["Content-Length: " + "9" * 40]]
)
def test_a_body_of_unknown_length_is_refused_at_once(lines: list[str]) -> None:
    async def test() -> None:
        async with served(SHORT) as (engine, _, port):
            stream = await connected(port)
            found = await answer(stream, head("/v1/fleet/push-object", *lines) + b"100000\r\n" + bytes(1000))
            assert found.startswith((b"HTTP/1.1 411", b"HTTP/1.1 400"))
            assert await is_closed(stream)
            assert engine.read == []
            assert engine.reading == 0

    run(test)


def test_a_site_sends_few_long_bodies_at_a_time_and_others_theirs() -> None:
    async def test() -> None:
        async with served(replace(SHORT, requests_at_once=2, stall=3, body=3)) as (engine, _, port):
            begun = head("/v1/fleet/push-object", f"Content-Length: {LONG}", SIGNED)
            waiting = [await connected(port) for _ in range(2)]
            for _, writer in waiting:
                writer.write(begun)
            while engine.reading < 2:
                await asyncio.sleep(0.01)
            assert (await asked(port, "/v1/fleet/push-object", LONG, SIGNED)).startswith(b"HTTP/1.1 503")
            assert await asked(port, PULL, 10, SIGNED) == OK
            assert await answer(waiting[0], bytes(LONG)) == OK
            assert await asked(port, "/v1/fleet/push-object", LONG, SIGNED) == OK
            waiting[1][1].close()

    run(test)


# Times


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize(
    "said", [b"", b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost:"], ids=["silent", "half a head"]
)
def test_who_says_nothing_is_dropped_and_sites_are_served(tls: dict[str, str], encrypted: bool, said: bytes) -> None:
    own = tls if encrypted else None

    async def test() -> None:
        async with served(SHORT, own) as (_, server, port):
            stream = await connected(port, own)
            stream[1].write(said)
            before_tls = await connected(port)
            assert await asked(port, PULL, 10, SIGNED, tls=own) == OK
            assert await is_closed(stream)
            assert await is_closed(before_tls)
            await asyncio.sleep(0)
            assert len(server.connections) == 0

    run(test)


def test_a_head_that_comes_byte_by_byte_has_its_time_and_no_more() -> None:
    async def test() -> None:
        async with served(SHORT) as (engine, _, port):
            stream = await connected(port)
            for byte in head("/health", "Content-Length: 0") * 3:
                stream[1].write(bytes([byte]))
                await asyncio.sleep(0.1)
                if stream[1].is_closing() or stream[0].at_eof():
                    break
            assert stream[0].at_eof() or await is_closed(stream)
            assert engine.read == []

    run(test)


@pytest.mark.parametrize("lines", [[], [SIGNED]], ids=["a stranger's", "a site's"])
def test_a_body_that_stops_is_answered_and_forgotten(lines: list[str]) -> None:
    size = LONG if lines else 1000

    async def test() -> None:
        async with served(SHORT) as (engine, _, port):
            stream = await connected(port)
            found = await answer(stream, head("/v1/fleet/push-object", f"Content-Length: {size}", *lines) + bytes(9))
            assert found.startswith(b"HTTP/1.1 408")
            assert await is_closed(stream)
            assert (engine.read, engine.reading) == ([], 0)

    run(test)


def test_a_slow_site_has_time_by_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = replace(SHORT, slowest=LONG / 2)
    assert limits.seconds(1000) == 0.6
    assert limits.seconds(LONG) == pytest.approx(2.8)
    assert Limits().seconds(5 * MIB) > 600, "a piece of a tensor over 64 kbit/s"

    async def test() -> None:
        async with served(limits) as (engine, _, port):
            stream = await connected(port)
            stream[1].write(head("/v1/fleet/push-object", f"Content-Length: {LONG}", SIGNED))
            for _ in range(4):
                stream[1].write(bytes(LONG // 4))
                await stream[1].drain()
                await asyncio.sleep(0.4)
            assert await answer(stream, b"") == OK
            assert engine.read == [LONG]

    run(test)


def test_an_answer_that_nobody_fetches_is_dropped_and_a_slow_reader_gets_all_of_it() -> None:
    async def test() -> None:
        async with served(SHORT) as (_, server, port):
            asks = head("/v1/fleet/pull-object", "Content-Length: 0", SIGNED)
            never, slow = await connected(port), await connected(port)
            never[1].transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads
            never[1].write(asks)
            slow[1].write(asks)
            for _ in range(6):
                await slow[0].readexactly(ANSWER // 6)
                await asyncio.sleep(0.2)
            assert (await slow[0].read(1 << 16)).endswith(b"x")
            slow[1].close()
            await asyncio.sleep(0.3)
            assert len(server.connections) == 0

    run(test)


def test_one_connection_that_cannot_be_looked_at_opens_the_door_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    sweep = Connections.sweep

    def fails_first(self: Connections) -> None:
        looked.append(len(self))
        if len(looked) == 1:
            raise RuntimeError
        sweep(self)

    monkeypatch.setattr(Connections, "sweep", fails_first)

    async def test() -> None:
        async with served(SHORT) as (_, _, port):
            assert await is_closed(await connected(port))
            assert await asked(port, PULL, 10, SIGNED) == OK
            assert len(looked) > 1

    run(test)


def test_who_does_not_take_leave_is_dropped_too(tls: dict[str, str]) -> None:
    async def test() -> None:
        async with served(SHORT, tls) as (_, server, port):
            raw = socket.create_connection(("127.0.0.1", port))
            context = ssl.create_default_context(cafile=tls["ssl_certfile"])
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            stranger = await asyncio.to_thread(context.wrap_socket, raw)
            stranger.send(head("/health", "Content-Length: 0", "Connection: close"))
            assert (await asyncio.to_thread(stranger.recv, 1000)).startswith(OK)
            await asyncio.sleep(1.2)  # in which its TLS stays open at its side
            assert len(server.connections) == 0
            stranger.close()

    run(test)


# Numbers


def test_a_crowd_of_strangers_does_not_keep_a_site_from_being_served(tls: dict[str, str]) -> None:
    async def test() -> None:
        async with served(replace(SHORT, head=30, handshake=30), tls) as (_, server, port):
            kept = await connected(port, tls)
            call = head("/v1/fleet/pull-messages", "Content-Length: 0", SIGNED)
            assert await answer(kept, call) == OK
            await kept[0].read(1 << 16)
            crowd = []
            for _ in range(40):
                crowd.append(socket.create_connection(("127.0.0.1", port)))
                await asyncio.sleep(0)
            for _ in range(3):
                assert await asked(port, PULL, 10, SIGNED, tls=tls) == OK
            assert await answer(kept, call) == OK, "whose call was answered has a place of its own"
            await asyncio.sleep(0.1)
            assert len(server.connections) <= SHORT.unproven_of_address + 1
            for one in crowd:
                one.close()

    run(test)


def test_what_a_site_sends_is_not_pushed_out_by_a_crowd() -> None:
    async def test() -> None:
        async with served(replace(SHORT, stall=5, body=5)) as (engine, _, port):
            stream = await connected(port)
            stream[1].write(head("/v1/fleet/push-object", f"Content-Length: {LONG}", SIGNED))
            while not engine.reading:
                await asyncio.sleep(0.01)
            crowd = [await connected(port) for _ in range(30)]
            assert await answer(stream, bytes(LONG)) == OK, (
                "its first call, and it is longer than the crowd takes to come"
            )
            assert len(crowd) == 30

    run(test)


class Counted:
    """Connections of a table whose time stands still, by what was ended of them."""

    def __init__(self, limits: Limits) -> None:
        self.now = 0.0
        self.table = Connections(limits, clock=lambda: self.now)
        self.ended: list[str] = []

    def admit(self, address: str, name: str = "") -> Any:
        return self.table.admit(address, lambda: self.ended.append(name or address))


def test_the_oldest_of_an_address_makes_room() -> None:
    all_of = Counted(Limits(unproven_of_address=2))
    for number in range(4):
        all_of.admit("10.0.0.1", f"stranger {number}")
    all_of.admit("10.0.0.2", "site")
    assert all_of.ended == ["stranger 0", "stranger 1"]
    assert len(all_of.table) == 3


def test_of_all_that_have_proven_nothing_the_greatest_crowd_makes_room() -> None:
    all_of = Counted(Limits(unproven_of_address=3, unproven=4))
    site = all_of.admit("10.0.0.2", "site")
    for number in range(3):
        all_of.admit("10.0.0.1", f"stranger {number}")
    all_of.admit("10.0.0.3", "another site")
    assert all_of.ended == ["stranger 0"]
    all_of.table.prove(site)
    for number in range(9):
        all_of.admit(f"10.1.0.{number}")
    assert "site" not in all_of.ended
    assert len(all_of.table) == 5


def test_no_crowd_of_proven_ones_shuts_others_out() -> None:
    all_of = Counted(Limits(connections=5))
    for number in range(9):
        all_of.table.prove(all_of.admit("10.0.0.1", f"rogue {number}"))
        if number == 2:
            all_of.table.prove(all_of.admit("10.0.0.2", "site"))
    all_of.admit("10.0.0.3", "newcomer")
    assert all_of.ended == [f"rogue {number}" for number in range(len(all_of.ended))]
    assert len(all_of.table) == 5


def test_times_by_hand() -> None:
    class Transport:
        unsent, aborted = 0, 0

        def abort(self) -> None:
            self.aborted += 1

        def get_write_buffer_size(self) -> int:
            return self.unsent

    all_of, transport = Counted(Limits(handshake=10, head=20, stall=30)), Transport()
    table = all_of.table
    shakes, one = all_of.admit("1.1.1.1", "shakes hands"), all_of.admit("1.1.1.2", "one")
    one.is_ready(transport)
    table.waits(one)
    for now, ended in ((9.9, []), (10, ["shakes hands"])):
        all_of.now = now
        table.sweep()
        assert all_of.ended == ended
    one.works()
    all_of.now = 1000
    table.sweep()
    assert len(table) == 1, "what the engine takes its time for goes on"
    table.waits(one)
    transport.unsent = 5
    for now in (1010, 1039):
        all_of.now = now
        table.sweep()
    assert transport.aborted == 0, "an answer is on its way for 29 s"
    transport.unsent = 4
    all_of.now = 1041
    table.sweep()
    transport.unsent = 0
    for now, aborted in ((1060, 0), (1061, 1)):
        all_of.now = now
        table.sweep()
        assert transport.aborted == aborted
    assert (len(table), table.dropped) == (0, 2)
    table.forget(shakes)


def test_a_transport_that_was_closed_twice_is_ended_by_its_socket() -> None:
    class Lost:
        """What asyncio's transport of TLS is then: it answers nothing, and cannot be aborted."""

        def abort(self) -> None:
            pass

        def get_write_buffer_size(self) -> int:
            raise AttributeError("'NoneType' object has no attribute '_get_write_buffer_size'")

    all_of = Counted(Limits(head=10))
    connection = all_of.admit("1.1.1.1", "its socket")
    connection.is_ready(Lost())
    all_of.table.waits(connection)
    all_of.now = 10
    all_of.table.sweep()
    assert all_of.ended == ["its socket"]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("socket", "socket"),
    ],
)
def test_a_network_of_64_bits_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network
