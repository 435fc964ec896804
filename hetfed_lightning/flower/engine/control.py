"""The operator's calls of ``flwr supernode register``, ``run``, ``log`` and ``list``, without a program for each."""

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
    """Error that the SuperLink refused or failed a call; the message says why."""


@dataclass(frozen=True)
class RunStatus:
    """State of a run.

    Attributes:
        status: ``pending``, ``starting``, ``running`` or ``finished``.
        sub_status: ``completed``, ``failed`` or ``stopped`` for a finished run.
        details: Text of the error for a failed run.
    """

    status: str
    sub_status: str
    details: str

    @property
    def is_finished(self) -> bool:
        """True if the run has ended."""
        return self.status == "finished"

    @property
    def is_success(self) -> bool:
        """True if the run went through to its end."""
        return self.is_finished and self.sub_status == "completed"

    @property
    def error(self) -> str:
        """Text of the ServerApp's exception, without the engine's introduction."""
        return self.details.removeprefix("ServerApp failed with exception: ")


class Control:
    """Operator's connection to a SuperLink.

    Args:
        address: ``host:port`` of the SuperLink.
        authority: Certificate by which the SuperLink is known; None for plain text.
        secret: Secret by which the SuperLink knows its operator.
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
        """Number of the node whose key is admitted here.

        Args:
            public_key: File of the key, in OpenSSH's form.
            name: Name of the participant, by which the ServerApp knows the key's owner.
        """
        key = serialization.load_ssh_public_key(public_key.read_bytes()).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        with self._told(f"register the key of {name}"):
            node: int = self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=name)).node_id
        return node

    def nodes(self) -> dict[int, str]:
        """State of every node, by its number: ``registered``, ``online``, ``offline`` or ``unregistered``."""
        with self._told("list its nodes"):
            answer = self._client.ListNodes(ListNodesRequest())
        return {node.node_id: node.status for node in answer.nodes_info}

    def start_run(self, app: Path, config: Mapping[str, str | int | float | bool]) -> int:
        """Number of the run of an app, which is submitted here.

        Args:
            app: Folder with its ``pyproject.toml``.
            config: Values that replace those in ``[tool.flwr.app.config]``.
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
        """State of a run."""
        with self._told(f"say how run {run} stands"):
            found = self._client.ListRuns(ListRunsRequest(run_id=run)).run_dict[run].status
        return RunStatus(found.status, found.sub_status, found.details)

    def logs(self, run: int) -> Iterator[str]:
        """Pieces of the ServerApp's log, until the run has ended."""
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
    """Context in which new clients use no proxy to this machine, since they read the environment once."""
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
