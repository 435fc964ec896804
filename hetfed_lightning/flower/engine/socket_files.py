"""Sockets that are files: who may not enter their folder cannot reach them, as any user reaches a port of loopback."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flwr.supercore.protobuf.client import ProtobufClient

_folders: dict[Path, int] = {}


def short_path(file: Path) -> str:
    """A path of a socket that the kernel takes, which takes 107 bytes, for this process and what is forked from it."""
    folder = file.parent.resolve()
    if folder not in _folders:
        _folders[folder] = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{_folders[folder]}/{file.name}"


class ClientOfSocket:
    """Stands where the engine's code makes a client of a SuperNode, and makes one that calls a socket.

    Args:
        kind: The engine's class of clients.
        file: Of the socket.
    """

    def __init__(self, kind: type[ProtobufClient], file: Path) -> None:
        self._kind = kind
        self._file = file

    def from_server_address(self, *_: Any, interceptors: Any, retry_invoker: Any = None, **__: Any) -> Any:
        """A client, made as the engine's class makes it."""
        import httpx

        client = self._kind("http://runtime", interceptors=interceptors, retry_invoker=retry_invoker)
        client.close()
        client._client = httpx.Client(
            transport=httpx.HTTPTransport(uds=short_path(self._file)), timeout=httpx.Timeout(30.0)
        )
        return client
