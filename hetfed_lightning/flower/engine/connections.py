"""The connections of a process, of which those that prove nothing make room for others.

Nobody is refused for being late: when there are too many, the oldest of whoever holds the most goes. A site that shares
an address with a stranger, behind a proxy or on one machine, is served as long as its first call takes less time than
the stranger needs for as many connections as an address may have.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from typing import Protocol

from hetfed_lightning.flower.engine.limits import Limits


class Transport(Protocol):
    """What is asked of an asyncio transport."""

    def abort(self) -> None:
        """Close at once, whatever waits to be sent."""

    def get_write_buffer_size(self) -> int:
        """Bytes that wait to be sent."""


class Connection:
    """One connection, from the moment at which it is accepted.

    Attributes:
        network: Where it comes from.
        is_proven: Whether a call over it was signed by a registered key, or showed the operator's secret.

    Args:
        network: Where it comes from.
        now: When it was accepted, in seconds.
        cancel: Ends its socket, and what makes a transport of it.
        allowed: Seconds until it has one.
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
        """Note the transport, by which it is ended from now on."""
        self._transport = transport

    def waits(self, until: float) -> None:
        """Give it up unless a request's head is there by then, and what it was answered is fetched."""
        self._ends = until

    def works(self) -> None:
        """Note that a request is being dealt with, however long that takes."""
        self._ends = None

    def is_over(self, now: float, stall: float, head: float) -> bool:
        """Whether it has had its time.

        Args:
            now: In seconds.
            stall: Seconds in which something of an answer has to be fetched.
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
        except AttributeError:  # asyncio's transport of TLS has lost what it asks once it was closed twice
            return 0


class Connections:
    """All connections of a process.

    Attributes:
        dropped: How many were ended because they had had their time, or because there were too many.

    Args:
        limits: Numbers and times.
        clock: Seconds that pass.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.dropped = 0
        self._clock = clock
        self._all: dict[Connection, None] = {}  # in the order in which they came
        self._unproven: dict[str, dict[Connection, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def admit(self, address: str, cancel: Callable[[], object]) -> Connection:
        """A connection from an address, for which others make room if there are too many.

        Args:
            address: Of the other side.
            cancel: Ends its socket, and what makes a transport of it.
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
        """Note that a connection is a site's or the operator's."""
        connection.is_proven = True
        self._forget_unproven(connection)

    def waits(self, connection: Connection) -> None:
        """Note that the next request of a connection is waited for."""
        connection.waits(self._clock() + self.limits.head)

    def forget(self, connection: Connection) -> None:
        """Note that a connection is gone."""
        self._all.pop(connection, None)
        self._forget_unproven(connection)

    def drop(self, connection: Connection) -> None:
        """End a connection."""
        self.forget(connection)
        self.dropped += 1
        connection.end()

    def sweep(self) -> None:
        """End whatever has had its time."""
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
    """What counts as one address: of IPv6 the network of 64 bits, since whoever has one address there has all of it."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Network((found, 64), strict=False))
    return str(found)
