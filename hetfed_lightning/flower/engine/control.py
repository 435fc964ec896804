"""What ``flwr supernode register``, ``run``, ``log`` and ``list`` do, without starting a program for each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx
from cryptography.hazmat.primitives import serialization

from hetfed_lightning.flower.engine.operator_secret import ShowsSecret
from hetfed_lightning.flower.engine.settings import SILENT, without_proxy

os.environ.update({name: value for name, value in SILENT.items() if name not in os.environ})

from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    StreamLogsRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor


class RefusedError(RuntimeError):
    """The SuperLink did not do what it was asked to; the message says why."""


@dataclass(frozen=True)
class RunStatus:
    """How a run stands.

    Attributes:
        status: ``pending``, ``starting``, ``running`` or ``finished``.
        sub_status: Of a finished run, ``completed``, ``failed`` or ``stopped``.
        details: Of a failed run, the error's words.
    """

    status: str
    sub_status: str
    details: str

    @property
    def is_finished(self) -> bool:
        """Whether nothing of it goes on."""
        return self.status == "finished"

    @property
    def is_success(self) -> bool:
        """Whether it went through to its end."""
        return self.is_finished and self.sub_status == "completed"

    @property
    def error(self) -> str:
        """What the ServerApp's exception said, without the engine's introduction."""
        return self.details.removeprefix("ServerApp failed with exception: ")


class Control:
    """Speaks to a SuperLink as its operator.

    Args:
        address: ``host:port``.
        authority: Certificate by which the SuperLink is known; None for plain text.
        secret: By which the SuperLink knows its operator.
    """

    def __init__(self, address: str, authority: Path | None, secret: str) -> None:
        self._address = address
        with _direct(address.rpartition(":")[0]):
            self._client = ControlHttpClient.from_server_address(
                server_address=address,
                insecure=authority is None,
                root_certificates=None if authority is None else authority.read_bytes(),
                interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI"), ShowsSecret(secret)],
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def register(self, public_key: Path, name: str) -> int:
        """Admit a site's key.

        Args:
            public_key: Its file, in OpenSSH's form.
            name: Of the participant, by which the ServerApp knows whose key it is.

        Returns:
            The number of the node that has the key.
        """
        key = serialization.load_ssh_public_key(public_key.read_bytes()).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        with self._told(f"register the key of {name}"):
            node: int = self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=name)).node_id
        return node

    def nodes(self) -> dict[int, str]:
        """How every node stands, by its number: ``registered``, ``online``, ``offline`` or ``unregistered``."""
        with self._told("list its nodes"):
            answer = self._client.ListNodes(ListNodesRequest())
        return {node.node_id: node.status for node in answer.nodes_info}

    def start_run(self, app: Path, config: Mapping[str, str | int | float | bool]) -> int:
        """Submit an app.

        Args:
            app: Folder with its ``pyproject.toml``.
            config: Values that take the place of those in ``[tool.flwr.app.config]``.

        Returns:
            The number of the run.
        """
        content = build_fab_from_disk(app)
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(config)))
        with self._told(f"start the app in {app}"):
            answer = self._client.StartRun(request)
        if not answer.HasField("run_id"):
            raise RefusedError(f"The SuperLink at {self._address} did not start the app in {app}.")
        run: int = answer.run_id
        return run

    def outcome(self, run: int) -> RunStatus:
        """How a run stands."""
        with self._told(f"say how run {run} stands"):
            found = self._client.ListRuns(ListRunsRequest(run_id=run)).run_dict[run].status
        return RunStatus(found.status, found.sub_status, found.details)

    def logs(self, run: int) -> Iterator[str]:
        """What the ServerApp says, piece by piece until the run has ended."""
        with self._told(f"show the log of run {run}"):
            for piece in self._client.StreamLogs(StreamLogsRequest(run_id=run, after_timestamp=0.0)):
                yield piece.log_output

    def stop_run(self, run: int) -> None:
        """End a run that goes on."""
        with self._told(f"stop run {run}"):
            self._client.StopRun(StopRunRequest(run_id=run))

    @contextmanager
    def _told(self, task: str) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPStatusError as error:
            told = FlowerError.from_json(error.response.text)
            reason = error.response.text if told is None else told.public_details or told.message
            raise RefusedError(f"The SuperLink at {self._address} did not {task}: {reason}") from error
        except httpx.HTTPError as error:
            raise RefusedError(f"The SuperLink at {self._address} could not be asked to {task}: {error}") from error


@contextmanager
def _direct(host: str) -> Iterator[None]:
    """While a client is made, have it take no proxy to this machine: it reads the environment then."""
    before = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
    os.environ.update(without_proxy(os.environ, host))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
