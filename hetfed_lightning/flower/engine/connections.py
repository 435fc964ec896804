"""The connections of a process: when there are too many, unproven ones make room for others.

No caller is refused for being late: the oldest connection of the network with the most goes. A site may share an
address with a stranger, behind a proxy or on one machine. It is served as long as its first call takes less time than
the stranger needs for as many connections as an address may have.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from typing import Protocol

from hetfed_lightning.flower.engine.limits import Limits


class Transport(Protocol):
    """The methods that are called on an asyncio transport."""

    def abort(self) -> None:
        """Close at once, dropping unsent bytes."""

    def get_write_buffer_size(self) -> int:
        """Bytes that wait to be sent."""


class Connection:
    """One connection, from the moment at which it is accepted.

    Attributes:
        network: Network of the caller.
        is_proven: True if a call over it was signed by a registered key, or showed the operator's secret.

    Args:
        network: Network of the caller.
        now: Time at which it was accepted, in seconds.
        cancel: Function that ends its socket, and the task that makes its transport.
        allowed: Seconds until it has a transport.
    """

    def __init__(self, network: str, now: float, cancel: Callable[[], object], allowed: float) -> None:
        self.network = network
        self.is_proven = False
        self._cancel = cancel
        self._transport: Transport | None = None
        self._ends: float | None = now + allowed
        self._unsent = 0
        self._sent_at = now

    def is_ready(self, transport: Transport) -> None:
        """Set the transport, by which it is ended from now on."""
        self._transport = transport

    def waits(self, until: float) -> None:
        """Set the time by which the next request's head has to be complete, once the last answer is fetched."""
        self._ends = until

    def works(self) -> None:
        """Stop its time while a request is being handled."""
        self._ends = None

    def is_over(self, now: float, stall: float, head: float) -> bool:
        """True if its time is over.

        Args:
            now: Time in seconds.
            stall: Seconds in which a part of an answer has to be fetched.
            head: Seconds for the next request once the answer is fetched.
        """
        unsent = self._unsent_now()
        if unsent:
            if unsent != self._unsent:
                self._unsent, self._sent_at = unsent, now
            if self._ends is not None:
                self._ends = now + head
            return now - self._sent_at >= stall
        self._unsent, self._sent_at = 0, now
        return self._ends is not None and now >= self._ends

    def end(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()
        self._cancel()

    def _unsent_now(self) -> int:
        if self._transport is None:
            return 0
        try:
            return self._transport.get_write_buffer_size()
        except AttributeError:  # asyncio's transport of TLS has lost its protocol once it was closed twice
            return 0


class Connections:
    """All connections of a process.

    Attributes:
        dropped: Number of those ended because their time was over, or there were too many.

    Args:
        limits: Numbers and times.
        clock: Function that gives the time in seconds.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.dropped = 0
        self._clock = clock
        self._all: dict[Connection, None] = {}  # In the order of their coming.
        self._unproven: dict[str, dict[Connection, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def admit(self, address: str, cancel: Callable[[], object]) -> Connection:
        """Connection from an address; others make room if there are too many.

        Args:
            address: Address of the other side.
            cancel: Function that ends its socket, and the task that makes its transport.
        """
        found = Connection(network_of(address), self._clock(), cancel, self.limits.handshake)
        self._all[found] = None
        mine = self._unproven.setdefault(found.network, {})
        mine[found] = None
        if len(mine) > self.limits.unproven_of_address:
            self.drop(next(iter(mine)))
        if sum(map(len, self._unproven.values())) > self.limits.unproven:
            self.drop(next(iter(max(self._unproven.items(), key=lambda one: len(one[1]))[1])))
        if len(self._all) > self.limits.connections:
            networks: dict[str, list[Connection]] = {}
            for one in self._all:
                networks.setdefault(one.network, []).append(one)
            self.drop(max(networks.values(), key=len)[0])
        return found

    def prove(self, connection: Connection) -> None:
        """Mark a connection as a site's or the operator's."""
        connection.is_proven = True
        self._forget_unproven(connection)

    def waits(self, connection: Connection) -> None:
        """Start the time for the next request of a connection."""
        connection.waits(self._clock() + self.limits.head)

    def forget(self, connection: Connection) -> None:
        """Remove a connection that is gone."""
        self._all.pop(connection, None)
        self._forget_unproven(connection)

    def drop(self, connection: Connection) -> None:
        """End a connection."""
        self.forget(connection)
        self.dropped += 1
        connection.end()

    def sweep(self) -> None:
        """End all connections whose time is over."""
        now = self._clock()
        for connection in [one for one in self._all if one.is_over(now, self.limits.stall, self.limits.head)]:
            self.drop(connection)

    def _forget_unproven(self, connection: Connection) -> None:
        there = self._unproven.get(connection.network)
        if there is not None:
            there.pop(connection, None)
            if not there:
                del self._unproven[connection.network]


def network_of(address: str) -> str:
    """Network that counts as one address; for IPv6 its 64 bits, since their owner has all addresses there."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Network((found, 64), strict=False))
    return str(found)
