"""Socket files: a folder's permissions protect them, while any user reaches a port of loopback."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flwr.supercore.protobuf.client import ProtobufClient

_folders: dict[Path, int] = {}


def short_path(file: Path) -> str:
    """Path of a socket within the kernel's limit of 107 bytes, for this process and those forked from it."""
    folder = file.parent.resolve()
    if folder not in _folders:
        _folders[folder] = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{_folders[folder]}/{file.name}"


class ClientOfSocket:
    """Stand-in for the engine's class of clients of a SuperNode, whose clients call a socket file.

    Args:
        kind: The engine's class of clients.
        file: The socket file.
    """

    def __init__(self, kind: type[ProtobufClient], file: Path) -> None:
        self._kind = kind
        self._file = file

    def from_server_address(self, *_: Any, interceptors: Any, retry_invoker: Any = None, **__: Any) -> Any:
        """Client, made as the engine's class makes it.

        Args:
            interceptors: Interceptors of the client.
            retry_invoker: Retries of the client.
        """
        import httpx

        client = self._kind("http://runtime", interceptors=interceptors, retry_invoker=retry_invoker)
        client.close()
        client._client = httpx.Client(
            transport=httpx.HTTPTransport(uds=short_path(self._file)), timeout=httpx.Timeout(30.0)
        )
        return client
