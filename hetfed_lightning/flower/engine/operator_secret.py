"""The secret of a SuperLink, which its operator shows with every call, since an address is no identity.

It is made anew for every start, handed over in a file that its owner alone may read, and never stands on a command
line, in a variable or in a log.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx
    from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

HEADER = "hetfed-operator"
"""Header of a call that holds the secret."""


def new_secret() -> str:
    """Secret of 256 random bits, as hexadecimal digits."""
    return secrets.token_hex(32)


def read_secret(path: Path) -> str:
    """Secret in a file.

    Raises:
        ValueError: If the file is empty, under which nothing would be protected.
    """
    secret = path.read_text(encoding="ascii").strip()
    if not secret:
        raise ValueError(f"{path}: expected the operator's secret, found an empty file.")
    return secret


def shows(headers: Iterable[tuple[bytes, bytes]], secret: str) -> bool:
    """True if a call shows the secret, once and in full; compared in constant time.

    Args:
        headers: Names in lower case, and values.
        secret: Secret of this process.
    """
    shown = [value for name, value in headers if name == HEADER.encode()]
    return len(shown) == 1 and hmac.compare_digest(shown[0], secret.encode())


class ShowsSecret:
    """Interceptor of the engine's clients that adds the secret to every call.

    Args:
        secret: Secret of the SuperLink that is called.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Response to a call, which is passed on with the secret.

        Args:
            context: The call.
            call_next: Function that passes it on.
        """
        context.request.headers[HEADER] = self._secret
        return call_next(context)


class ClientWithSecret:
    """Stand-in for the engine's class of clients of a SuperLink, whose clients show the secret.

    Args:
        kind: The engine's class of clients.
        secret: Secret of the SuperLink that is called.
    """

    def __init__(self, kind: Any, secret: str) -> None:
        self._kind = kind
        self._secret = secret

    def from_server_address(self, *arguments: Any, interceptors: Iterable[Any], **options: Any) -> Any:
        """Client, made as the engine's class makes it.

        Args:
            arguments: Arguments of the engine's class.
            interceptors: Interceptors of the client.
            options: Keyword arguments of the engine's class.
        """
        return self._kind.from_server_address(
            *arguments, interceptors=[*interceptors, ShowsSecret(self._secret)], **options
        )
