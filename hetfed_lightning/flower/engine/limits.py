"""Limits of a coordinator's process towards callers at its port: sizes, numbers and times.

A site's request is small, whatever its model: the engine sends a tensor in pieces of 5 MiB, one per request, with the
list of pieces (about 200 bytes each) and the site's description (about 100 bytes a tensor).
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds, each many times the need of an honest site.

    Attributes:
        request: Bytes of a signed request of a site; three pieces of a tensor, or a description of 100,000 tensors.
        unsigned: Bytes of a request without a signature of a registered key; a look for messages has about 50.
        reply: Bytes that a site may leave at the coordinator for one order, all of its requests together.
        requests_at_once: Simultaneous requests of one site that are larger than ``unsigned``; the engine sends two.
        connections: All connections.
        unproven: Connections without a successful call so far.
        unproven_of_address: The same from one address (for IPv6 from one network of 64 bits).
        handshake: Seconds until TLS is agreed on.
        head: Seconds until a request's head is complete, from the connection or from the answer before.
        body: Seconds until an unsigned request's body is complete.
        stall: Seconds without a byte of a signed request, or of an answer that is not fetched.
        slowest: Bytes a second at which a signed request has to arrive, beyond ``stall`` seconds.
        look: Seconds between two looks for connections whose time is over.
        graceful: Seconds for calls in progress when the process is told to end.
    """

    request: int = 16 * MIB
    unsigned: int = 64 * 1024
    reply: int = 4096 * MIB
    requests_at_once: int = 8
    connections: int = 2048
    unproven: int = 256
    unproven_of_address: int = 64
    handshake: float = 10.0
    head: float = 10.0
    body: float = 10.0
    stall: float = 30.0
    slowest: float = 8 * 1024.0
    look: float = 1.0
    graceful: float = 3.0

    def seconds(self, size: int) -> float:
        """Seconds that a request's body of ``size`` bytes may take."""
        return self.body if size <= self.unsigned else self.stall + size / self.slowest
