"""Environment of the engine's processes: no calls to the outside, no installations, files of their own."""

from __future__ import annotations

import os
import socket
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from hetfed_lightning.flower.engine.marks import MARK

LOOPBACK = "127.0.0.1"
SILENT: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Variables that switch off the engine's calls to the outside: usage events, update checks, installations."""
CLOSED: Mapping[str, str] = {"FLWR_INTERNAL_GRPC_CONTROL_API": "0", "FLWR_INTERNAL_GRPC_FLEET_API": "0"}
"""Variables that keep the engine's older interfaces shut; these authenticate no caller and have ports of their own."""
POLL = 0.1
"""Seconds between two looks for a task. The engine's default is 1, which every message would wait for."""


def environment(home: Path, mark: str) -> dict[str, str]:
    """Variables for a process of the engine: those of this process, with its own home and without outside calls.

    Args:
        home: Folder for the engine's installations and notes.
        mark: Value of :data:`~hetfed_lightning.flower.engine.marks.MARK`.
    """
    found = dict(os.environ)
    found.update(SILENT)
    found.update(CLOSED)
    found.update(
        {
            MARK: mark,
            "FLWR_HOME": str(home),
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(POLL),
            # The engine starts its programs by name.
            "PATH": os.pathsep.join([sysconfig.get_path("scripts"), found.get("PATH", os.defpath)]),
            "PYTHONUNBUFFERED": "1",
            # Address whose headers name a call's origin: a stranger's headers would make him an operator.
            "FORWARDED_ALLOW_IPS": LOOPBACK,
            # Lightning counts GPUs at import; without this that would leave CUDA unusable in a forked process.
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        }
    )
    found.update(without_proxy(found))
    return found


def without_proxy(variables: Mapping[str, str], *hosts: str) -> dict[str, str]:
    """Variables with which this machine is called directly, since the engine's client obeys a machine's proxy.

    Args:
        variables: The present variables.
        hosts: Names of this machine beside those of loopback.
    """
    given = variables.get("NO_PROXY") or variables.get("no_proxy") or ""
    names = ",".join(dict.fromkeys(filter(None, [*given.split(","), LOOPBACK, "localhost", "::1", *hosts])))
    return {"NO_PROXY": names, "no_proxy": names}


def free_ports(count: int) -> list[int]:
    """Different ports of loopback that are free now; another process may take one before its use."""
    found = [socket.socket() for _ in range(count)]
    try:
        for one in found:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in found]
    finally:
        for one in found:
            one.close()
