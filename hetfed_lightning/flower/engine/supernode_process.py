"""A site's SuperNode as a process of this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from hetfed_lightning.flower.engine.process import Process
from hetfed_lightning.flower.engine.settings import LOOPBACK

# Run with -P: its folder is no place to import from.
PROGRAM = Path(__file__).with_name("supernode.py")


class SuperNode:
    """A site's process: takes messages from the SuperLink and brings back answers.

    Attributes:
        program: Program to start; ``["flower-supernode"]`` is the engine's own.

    Args:
        name: Name of the site.
        superlink: ``host:port`` of the SuperLink.
        environment: Variables of the process.
        log: File of its log.
        config: Node configuration of the site: ``participant``, ``config``, ``state-dir``.
        socket: Socket file at which an executor takes its tasks, in a folder of its owner alone; None to have the
            engine start a program for each task.
        port: Port of loopback at which tasks are given out without a socket.
        authority: Certificate by which the SuperLink is known; None for plain text.
        key: The site's private key; None for plain text.
    """

    def __init__(
        self,
        name: str,
        superlink: str,
        environment: Mapping[str, str],
        log: Path,
        config: Mapping[str, str],
        *,
        socket: Path | None = None,
        port: int | None = None,
        authority: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self.name = name
        self.program = [sys.executable, "-P", str(PROGRAM)]
        self.superlink = superlink
        self.config = dict(config)
        self.authority = authority
        self.key = key
        self.socket = socket
        self._port = port
        self.process = Process(f"SuperNode of {name}", [], environment, log)

    @property
    def command(self) -> list[str]:
        """Command that starts it."""
        config = " ".join(f"{name}={json.dumps(value)}" for name, value in self.config.items())
        command = [*self.program, "--superlink", self.superlink, "--host", LOOPBACK, "--node-config", config]
        command += ["--insecure"] if self.authority is None else ["--root-certificates", str(self.authority)]
        if self.key is not None:
            command += ["--auth-supernode-private-key", str(self.key)]
        if self._port is not None:
            command += ["--port", str(self._port)]
        if self.socket is not None:
            command += ["--isolation", "process", "--runtime-socket", str(self.socket)]
        return command

    def start(self) -> None:
        """Start it. It connects by itself, as soon as the SuperLink answers."""
        self.process.command = self.command
        self.process.start()

    def release(self, node_id: int) -> None:
        """Tell the SuperLink that the node is gone, as a killed one cannot.

        Otherwise the node counts as present until a minute after its last sign of life, and no other is let in with its
        key.

        Args:
            node_id: Number that the SuperLink gave to the key.
        """
        if self.key is None or self.authority is None:
            return
        private = load_ssh_private_key(self.key.read_bytes(), None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self.key}: expected a key of an elliptic curve, got {type(private).__name__}.")
        signed: list[ProtobufClientInterceptor] = [
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(private, private.public_key()),
        ]
        certificate = self.authority.read_bytes()
        with (
            suppress(httpx.HTTPError),  # The node, or the SuperLink, is gone already.
            FleetHttpClient.from_server_address(self.superlink, False, certificate, interceptors=signed) as client,
        ):
            client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))
