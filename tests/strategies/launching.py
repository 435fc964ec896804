"""Starts the ranks of a test, as a launcher would: each with its place in the environment."""

import multiprocessing
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hetfed_lightning import FederatedStrategy
from tests.strategies.scenarios import SCENARIOS

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def free_port() -> int:
    """A port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def place(rank: int, world: int, port: int) -> dict[str, str]:
    """A rank's place, as its environment has it."""
    return {
        "WORLD_SIZE": str(world),
        "NODE_RANK": "0",
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def start(script: str, arguments: Sequence[object], world: int) -> list[subprocess.Popen[str]]:
    """Start every rank of ``tests/strategies/<script>``; what they write is captured, errors among it."""
    port = free_port()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(HERE / script), *map(str, arguments)],
            env=environment | place(rank, world, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]


def results(folder: Path, world: int, layout: str, groups: int, scenarios: Sequence[str]) -> dict[str, list[Any]]:
    """What each rank's scenarios returned, by scenario and rank.

    The ranks are forked: importing torch in each takes longer than everything they are asked to do.
    """
    port = free_port()
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=run_rank, args=(rank, port, folder, world, layout, groups, scenarios))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    said = [(folder / f"rank_{rank}.log").read_text() for rank in range(world)]
    assert all(process.exitcode == 0 for process in processes), "\n\n".join(said)
    return {name: [torch.load(folder / f"{name}_{rank}.pt") for rank in range(world)] for name in scenarios}


def run_rank(
    rank: int, port: int, folder: Path, world: int, layout: str, groups: int, scenarios: Sequence[str]
) -> None:
    """One rank of several, in a process of its own: run scenarios and save what they return."""
    os.environ |= place(rank, world, port)
    with (folder / f"rank_{rank}.log").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    warnings.filterwarnings("ignore")

    def settings() -> dict[str, Any]:
        return {"strategy": FederatedStrategy(layout=layout, groups=groups or None), "devices": world}  # type: ignore[arg-type]

    for name in scenarios:
        torch.save(SCENARIOS[name](folder, settings), folder / f"{name}_{rank}.pt")
