"""A SuperLink that serves its operator on this machine alone: ``python -P superlink.py``, options of flower-superlink.

The engine's own has one port for sites and for whoever starts runs, stops them and registers keys, and does not ask the
latter who they are. Here sites get what is theirs, and everything else is refused to whoever comes from elsewhere.

A program, not a module to be imported: the package's own imports would cost its start seconds.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from flwr.superlink import main as superlink
from flwr.superlink.cli.flower_superlink import flower_superlink

FOR_SITES = ("/v1/fleet/", "/health")

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class OperatorsOnlyHere:
    """Refuses all but a site's calls to whoever is not on this machine.

    Args:
        app: What is guarded.
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(
        self, scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Pass a call on or answer that it is forbidden."""
        is_open = scope["type"] == "lifespan" or scope["path"].startswith(FOR_SITES)
        if is_open or is_here(scope.get("client"), scope.get("server")):
            await self.app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"Only /v1/fleet/ is served to other machines."})


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


def main() -> None:
    """Run the SuperLink behind the guard."""
    made = superlink.create_app

    def guarded(*arguments: Any, **options: Any) -> Any:
        app = made(*arguments, **options)
        app.add_middleware(OperatorsOnlyHere)
        return app

    superlink.create_app = guarded
    sys.argv[0] = "flower-superlink"
    flower_superlink()


if __name__ == "__main__":
    main()
