"""The outermost layer of a coordinator's process, which refuses all calls but sites' and the operator's."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from hetfed_lightning.flower.engine.limits import Limits
from hetfed_lightning.flower.engine.operator_secret import shows

FOR_SITES = "/v1/fleet/"
HEALTH = "/health"
CONNECTION = "hetfed_connection"
"""Key, in the state of a call, of a function that marks its connection as a site's or the operator's."""

Headers = Sequence[tuple[bytes, bytes]]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Application that refuses any call but a site's or the operator's, before a byte of its body is read.

    The operator shows the secret of this process from this machine; another user of the machine has its address but not
    the secret. A site's call declares the length of its body. It is short unless the call is signed by a registered
    key, and it has to arrive in time.

    Args:
        app: Application that is guarded.
        secret: Secret of this process.
        signer: Function from the headers of a site's call to the registered public key that signed it, or None.
        limits: Sizes and times.
    """

    def __init__(
        self, app: Application, secret: str, signer: Callable[[Headers], bytes | None], limits: Limits | None = None
    ) -> None:
        self._app = app
        self._secret = secret
        self._signer = signer
        self._limits = limits or Limits()
        self._at_once: Counter[bytes] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a call, or answer why it is refused.

        Args:
            scope: Scope of the call (ASGI).
            receive: Function that receives its messages.
            send: Function that sends the answer's messages.
        """
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await refuse(send, 403, "Only HTTP is served here.")
        elif scope["path"].startswith(FOR_SITES) or scope["path"] == HEALTH:
            await self._site(scope, receive, send)
        elif not is_here(scope.get("client"), scope.get("server")):
            await refuse(send, 403, "Only /v1/fleet/ is served to other machines.")
        elif not shows(scope["headers"], self._secret):
            await refuse(send, 403, "This is for the coordinator's operator alone, who shows a secret.")
        else:
            _prove(scope)
            await self._app(scope, receive, send)

    async def _site(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits, size = self._limits, _declared(scope["headers"])
        if size is None:
            await refuse(send, 411, "A call says how long its body is, once.")
        elif size > limits.request:
            await refuse(send, 413, f"A call has at most {limits.request} bytes, and this one {size}.")
        elif size <= limits.unsigned:
            await self._in_time(size, scope, receive, send)
        else:
            signer = await asyncio.to_thread(self._signer, scope["headers"])
            if signer is None:
                await refuse(send, 401, f"A call of more than {limits.unsigned} bytes is signed by a registered key.")
            elif self._at_once[signer] >= limits.requests_at_once:
                await refuse(send, 503, f"A site sends {limits.requests_at_once} long calls at a time.")
            else:
                _prove(scope)  # The body may take minutes, during which no crowd may push the connection out.
                self._at_once[signer] += 1
                try:
                    await self._in_time(size, scope, receive, send)
                finally:
                    self._at_once[signer] -= 1
                    self._at_once += Counter()  # Removes counts of zero.

    async def _in_time(self, size: int, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a call whose body arrives in time; a late one gets no other answer.

        An engine that has authenticated a call answers 200, which proves whose its connection is.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._limits.seconds(size)
        is_complete = is_late = is_answered = False

        async def timed() -> MutableMapping[str, Any]:
            nonlocal is_complete, is_late
            if is_complete:
                return await receive()  # Until the caller is gone.
            try:
                async with asyncio.timeout(min(ends - loop.time(), self._limits.stall)):
                    message = await receive()
            except TimeoutError:
                is_complete = is_late = True
                return {"type": "http.disconnect"}
            is_complete = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal is_answered
            if is_late and not is_answered:
                return
            is_answered = True
            if message["type"] == "http.response.start" and message["status"] == 200 and scope["path"] != HEALTH:
                _prove(scope)
            await send(message)

        try:
            await self._app(scope, timed, watched)
        finally:
            if is_late and not is_answered:
                await refuse(send, 408, "The body of this call did not arrive in time.")


def _declared(headers: Headers) -> int | None:
    """Bytes of a body, as declared in the head; None if they are not."""
    lengths = [value for name, value in headers if name == b"content-length"]
    if len(lengths) > 1 or any(name == b"transfer-encoding" for name, _ in headers):
        return None
    if not lengths:
        return 0
    return int(lengths[0]) if lengths[0].isdigit() and len(lengths[0]) < 20 else None


def _prove(scope: Scope) -> None:
    """Mark a call's connection as a site's or the operator's."""
    proves = scope.get("state", {}).get(CONNECTION)
    if proves is not None:
        proves()


async def refuse(send: Send, status: int, reason: str) -> None:
    """Answer with a sentence, and have the connection closed.

    Args:
        send: Function that sends the answer's messages.
        status: Status of HTTP.
        reason: The sentence.
    """
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})


def is_here(client: tuple[str, int] | None, server: tuple[str, int | None] | None = None) -> bool:
    """True if a call comes from this machine.

    Args:
        client: Address of the caller. It is of this machine if it is of loopback, or the one at which the call arrived,
            since a machine calls its own addresses from there. None means a socket file, which is of this machine.
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
