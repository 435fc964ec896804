import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest

from hetfed_lightning.flower.engine.superlink import OperatorsOnlyHere

Receive = Callable[[], Awaitable[Any]]


def answered(
    path: str, client: tuple[str, int] | None, kind: str = "http", server: tuple[str, int] | None = None
) -> int:
    """Status of the answer to a call; 200 if it reached the SuperLink."""
    said: list[MutableMapping[str, Any]] = []

    async def superlink(
        scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)

    async def receive() -> None:
        return None

    scope = {"type": kind, "path": path, "client": client, "server": server}
    asyncio.run(OperatorsOnlyHere(superlink)(scope, receive, send))
    status: int = said[0]["status"]
    return status


@pytest.mark.parametrize("client", [("10.1.2.3", 4), ("2001:db8::1", 4), ("::ffff:10.1.2.3", 4), ("testclient", 4)])
@pytest.mark.parametrize(
    "path",
    ["/v1/control/register-node", "/v1/control/start-run", "/v1/runtime/acquire-task", "/docs", "/openapi.json", "/"],
)
def test_who_comes_from_elsewhere_is_refused_all_but_what_sites_need(path: str, client: tuple[str, int]) -> None:
    assert answered(path, client) == 403
    assert answered("/v1/fleet/pull-messages", client) == 200
    assert answered("/health", client) == 200


@pytest.mark.parametrize("client", [("127.0.0.1", 4), ("::1", 4), ("::ffff:127.0.0.1", 4), None])
def test_who_is_on_this_machine_operates_it(client: tuple[str, int] | None) -> None:
    assert answered("/v1/control/start-run", client) == 200


def test_a_machine_that_calls_its_own_address_is_here_and_its_neighbour_is_not() -> None:
    server = ("::ffff:10.1.2.3", 8000)
    assert answered("/v1/control/start-run", ("10.1.2.3", 4), server=server) == 200
    assert answered("/v1/control/start-run", ("10.1.2.4", 4), server=server) == 403
    assert answered("/v1/control/start-run", ("testclient", 4), server=("testclient", 8000)) == 403


def test_other_kinds_of_connections_are_refused_too() -> None:
    assert answered("/v1/control/stream", ("10.1.2.3", 4), kind="websocket") == 403
