"""Uvicorn's server behind an entrance of our own, which counts connections and times them, also before TLS.

Uvicorn itself waits for a request's head, a handshake (a minute) and a reader of its answers as long as these like.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hetfed_lightning.flower.engine.connections import Connection, Connections
from hetfed_lightning.flower.engine.guard import CONNECTION
from hetfed_lightning.flower.engine.limits import Limits

_SPARE_FILES = 128
"""Of the files that a process may have open: for everything but connections."""
_TOLD_EVERY = 60
"""Seconds between two lines of the log about connections that were dropped."""

log = logging.getLogger("uvicorn.error")


class TimedProtocol(H11Protocol):
    """HTTP over one connection that says what it waits for.

    Args:
        connections: All of them.
        connection: This one.
        arguments: Uvicorn's.
    """

    def __init__(self, connections: Connections, connection: Connection, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._connections = connections
        self._connection = connection
        self.app_state = {**self.app_state, CONNECTION: lambda: connections.prove(connection)}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as Uvicorn has it
        """The connection is there, with TLS."""
        super().connection_made(transport)
        self._connection.is_ready(transport)
        self._connections.waits(self._connection)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        super().connection_lost(exc)
        self._connections.forget(self._connection)

    def data_received(self, data: bytes) -> None:
        """Bytes have come; the head's time goes on until it is complete."""
        super().data_received(data)
        self._note_work()

    def on_response_complete(self) -> None:
        """An answer is complete; the next head's time begins."""
        self._connections.waits(self._connection)
        super().on_response_complete()
        self._note_work()

    def _note_work(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._connection.works()


class Entrance:
    """Listens, and hands connections on within their limits; to Uvicorn it is one of its servers.

    Args:
        sockets: That listen.
        connections: Where they are counted.
        served: Makes the protocol of a connection.
        tls: For all of them; None for plain text.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        connections: Connections,
        served: Callable[[Connection], asyncio.Protocol],
        tls: Any,
    ) -> None:
        self.sockets = list(sockets)
        self._connections = connections
        self._served = served
        self._tls = tls
        self._beginning: set[asyncio.Task[None]] = set()
        self._told, self._told_at = 0, -float(_TOLD_EVERY)
        loop = asyncio.get_running_loop()
        self._running = [loop.create_task(self._for_good(partial(self._accept, one))) for one in self.sockets]
        self._running.append(loop.create_task(self._for_good(self._look)))

    def close(self) -> None:
        """Accept nobody any more."""
        for task in self._running:
            task.cancel()
        for one in self.sockets:
            asyncio.get_running_loop().remove_reader(one)
            one.close()

    async def wait_closed(self) -> None:
        """Wait until nobody is being accepted."""
        for task in self._beginning:
            task.cancel()
        await asyncio.gather(*self._running, *self._beginning, return_exceptions=True)

    async def _for_good(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Take a step again and again: with the first that fails everybody would be shut out, or let in."""
        while True:
            try:
                await step()
            except Exception:
                log.exception("The entrance goes on after an error.")
                await asyncio.sleep(0.1)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            accepted, address = await loop.sock_accept(listening)
        except OSError as error:  # no file is left, or who called is gone
            log.warning("A connection could not be accepted: %s", error)
            await asyncio.sleep(0.1)
            return
        task = loop.create_task(self._begin(accepted, known := []))
        connection = self._connections.admit(str(address[0]), partial(_end, task, accepted))
        known.append(connection)  # before the task begins, which it does when this one waits
        self._beginning.add(task)
        task.add_done_callback(partial(self._has_begun, accepted, connection))
        await asyncio.sleep(0)  # who waits to be accepted does not keep those who were from going on

    async def _begin(self, accepted: socket.socket, known: list[Connection]) -> None:
        (connection,) = known
        loop = asyncio.get_running_loop()
        seconds = None if self._tls is None else self._connections.limits.handshake
        with suppress(OSError, EOFError):  # among them whatever TLS finds at fault
            await loop.connect_accepted_socket(
                lambda: self._served(connection),
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=seconds,
            )
            return
        self._connections.forget(connection)
        accepted.close()

    def _has_begun(self, accepted: socket.socket, connection: Connection, task: asyncio.Task[None]) -> None:
        self._beginning.discard(task)
        if task.cancelled():
            self._connections.forget(connection)
            accepted.close()

    async def _look(self) -> None:
        await asyncio.sleep(self._connections.limits.look)
        self._connections.sweep()
        now, new = time.monotonic(), self._connections.dropped - self._told
        if new and now - self._told_at >= _TOLD_EVERY:
            log.warning("%d connections were dropped: silent, slow or too many.", new)
            self._told, self._told_at = self._connections.dropped, now


def _end(task: asyncio.Task[None], accepted: socket.socket) -> None:
    task.cancel()
    with suppress(OSError):
        accepted.shutdown(socket.SHUT_RDWR)  # whatever has become of a transport


class GuardedServer(uvicorn.Server):
    """Uvicorn's server with our entrance.

    Args:
        config: Uvicorn's.
        limits: Numbers and times of connections.
    """

    def __init__(self, config: uvicorn.Config, limits: Limits) -> None:
        super().__init__(config)
        self.connections = Connections(limits)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen at the configuration's host and port."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            self.should_exit = True
            return
        try:
            listening = sockets or await _listening(self.config.host, self.config.port, self.config.backlog)
        except OSError as error:
            log.error("%s:%s: %s", self.config.host, self.config.port, (error.strerror or str(error)).lower())  # noqa: TRY400  # one line says it
            await self.lifespan.shutdown()
            raise SystemExit(1) from error

        def served(connection: Connection) -> TimedProtocol:
            return TimedProtocol(self.connections, connection, self.config, self.server_state, self.lifespan.state)

        entrance: Any = Entrance(listening, self.connections, served, self.config.ssl)
        self.servers = [entrance]
        self._log_started_message(listening)
        self.started = True


async def _listening(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Sockets that listen at every address of a host."""
    found: list[socket.socket] = []
    addresses = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    try:
        for family, kind, protocol, _, address in dict.fromkeys(addresses):
            one = socket.socket(family, kind, protocol)
            found.append(one)
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
            one.listen(backlog)
    except OSError:
        for one in found:
            one.close()
        raise
    return found


def within_files(limits: Limits) -> int:
    """How many connections there is room for in the files that this process may have open; it asks for all it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return limits.connections
    return max(min(limits.connections, soft - _SPARE_FILES), 1)
