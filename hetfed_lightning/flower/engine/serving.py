"""Uvicorn's server behind the package's own entrance, which counts connections and times them, also before TLS.

Uvicorn itself waits for a request's head, a handshake (a minute) and the reading of its answers as long as callers
like.
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
"""Number of open files that are kept for everything but connections."""
_TOLD_EVERY = 60
"""Seconds between two lines of the log about connections that were dropped."""

log = logging.getLogger("uvicorn.error")


class TimedProtocol(H11Protocol):
    """HTTP over one connection, which reports its progress to the connection's timing.

    Args:
        connections: All connections.
        connection: This connection.
        arguments: Arguments of Uvicorn's protocol.
    """

    def __init__(self, connections: Connections, connection: Connection, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._connections = connections
        self._connection = connection
        self.app_state = {**self.app_state, CONNECTION: lambda: connections.prove(connection)}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as Uvicorn has it
        """Start the time for the first head, with TLS agreed on."""
        super().connection_made(transport)
        self._connection.is_ready(transport)
        self._connections.waits(self._connection)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection."""
        super().connection_lost(exc)
        self._connections.forget(self._connection)

    def data_received(self, data: bytes) -> None:
        """Take in bytes; the head's time goes on until it is complete."""
        super().data_received(data)
        self._note_work()

    def on_response_complete(self) -> None:
        """Start the time for the next head, since an answer is complete."""
        self._connections.waits(self._connection)
        super().on_response_complete()
        self._note_work()

    def _note_work(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._connection.works()


class Entrance:
    """Server of Uvicorn's kind that accepts connections within their limits.

    Args:
        sockets: Sockets that listen.
        connections: Connections, which are counted there.
        served: Function that makes the protocol of a connection.
        tls: TLS for all connections; None for plain text.
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
        """Stop accepting connections."""
        for task in self._running:
            task.cancel()
        for one in self.sockets:
            asyncio.get_running_loop().remove_reader(one)
            one.close()

    async def wait_closed(self) -> None:
        """Wait until no connection is being accepted."""
        for task in self._beginning:
            task.cancel()
        await asyncio.gather(*self._running, *self._beginning, return_exceptions=True)

    async def _for_good(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Repeat a step for good, even after errors: ending here would shut all callers out, or let all in."""
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
        except OSError as error:  # No file is left, or the caller is gone.
            log.warning("A connection could not be accepted: %s", error)
            await asyncio.sleep(0.1)
            return
        task = loop.create_task(self._begin(accepted, known := []))
        connection = self._connections.admit(str(address[0]), partial(_end, task, accepted))
        known.append(connection)  # Before the task begins, which it does when this one waits.
        self._beginning.add(task)
        task.add_done_callback(partial(self._has_begun, accepted, connection))
        await asyncio.sleep(0)  # Let accepted connections go on before the next is accepted.

    async def _begin(self, accepted: socket.socket, known: list[Connection]) -> None:
        (connection,) = known
        loop = asyncio.get_running_loop()
        seconds = None if self._tls is None else self._connections.limits.handshake
        with suppress(OSError, EOFError):  # Faults of TLS are among them.
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
        accepted.shutdown(socket.SHUT_RDWR)  # Needed whether or not there is a transport by now.


class GuardedServer(uvicorn.Server):
    """Uvicorn's server with the package's own entrance.

    Args:
        config: Configuration of Uvicorn.
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
    """Number of connections that fit into the open files of this process, whose limit is raised as far as allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return limits.connections
    return max(min(limits.connections, soft - _SPARE_FILES), 1)
