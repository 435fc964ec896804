"""The outermost layer of a coordinator's process: sites get what is theirs, the operator the rest, others a refusal."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from hetfed_lightning.flower.engine.operator_secret import shows

FOR_SITES = "/v1/fleet/"
HEALTH = "/health"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Refuses whatever is not a site's call and not the operator's, before a byte of its body is read.

    The operator is who shows the secret of this process from this machine; another user of the machine has its address
    and not the secret.

    Args:
        app: What is guarded.
        secret: Of this process.
    """

    def __init__(self, app: Application, secret: str) -> None:
        self._app = app
        self._secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a call on, or answer why it is refused."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await refuse(send, 403, "Only HTTP is served here.")
        elif scope["path"].startswith(FOR_SITES) or scope["path"] == HEALTH:
            await self._app(scope, receive, send)
        elif not is_here(scope.get("client"), scope.get("server")):
            await refuse(send, 403, "Only /v1/fleet/ is served to other machines.")
        elif not shows(scope["headers"], self._secret):
            await refuse(send, 403, "This is for the coordinator's operator alone, who shows a secret.")
        else:
            await self._app(scope, receive, send)


async def refuse(send: Send, status: int, reason: str) -> None:
    """Answer with a sentence, and have the connection closed."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})


def is_here(client: tuple[str, int] | None, server: tuple[str, int | None] | None = None) -> bool:
    """Whether a call comes from this machine.

    Args:
        client: Address of who calls: of loopback, or the one at which the call arrived, since a machine that calls
            one of its own addresses does so from there. What has none comes by a socket file, and is.
        server: Address at which the call arrived.
    """
    if client is None:
        return True
    address = _address(client[0])
    if address is None:
        return False
    return address.is_loopback or (server is not None and address == _address(server[0]))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
