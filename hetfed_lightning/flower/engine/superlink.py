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
        if scope["type"] == "lifespan" or scope["path"].startswith(FOR_SITES) or is_here(scope.get("client")):
            await self.app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"Only /v1/fleet/ is served to other machines."})


def is_here(client: tuple[str, int] | None) -> bool:
    """Whether an address is of this machine. What has none comes by a socket file, and is."""
    if client is None:
        return True
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


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
