"""Starts the ranks of a test, as a launcher would: each with its place in the environment."""

import multiprocessing
import os
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from hetfed_lightning import FederatedStrategy
from tests.strategies.scenarios import SCENARIOS


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


def fork(world: int, folder: Path, run: Callable[[int], None]) -> list[BaseProcess]:
    """Start ``run(rank)`` in a process for each rank; what a rank writes goes to ``rank_<rank>.log`` in ``folder``.

    The ranks are forked: importing torch in each takes longer than everything they are asked to do.
    """
    port = free_port()

    def begin(rank: int) -> None:
        os.environ |= place(rank, world, port)
        with (folder / f"rank_{rank}.log").open("w", buffering=1) as output:
            sys.stdout = sys.stderr = output  # Past pytest, which holds those of this process.
            warnings.filterwarnings("ignore")
            try:
                run(rank)
            except BaseException:
                traceback.print_exc()
                raise

    processes = [multiprocessing.get_context("fork").Process(target=begin, args=(rank,)) for rank in range(world)]
    for process in processes:
        process.start()
    return list(processes)


def codes(processes: Sequence[BaseProcess], seconds: float = 60) -> list[int | None]:
    """How processes ended; None for one that had to be killed since it did not end."""
    for process in processes:
        process.join(seconds)
    found = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return found


def results(folder: Path, world: int, layout: str, groups: int, scenarios: Sequence[str]) -> dict[str, list[Any]]:
    """What each rank's scenarios returned, by scenario and rank."""

    def settings() -> dict[str, Any]:
        return {"strategy": FederatedStrategy(layout=layout, groups=groups or None), "devices": world}  # type: ignore[arg-type]

    def run(rank: int) -> None:
        for name in scenarios:
            torch.save(SCENARIOS[name](folder, settings), folder / f"{name}_{rank}.pt")

    processes = fork(world, folder, run)
    for process in processes:
        process.join(200)
    said = [(folder / f"rank_{rank}.log").read_text() for rank in range(world)]
    assert all(process.exitcode == 0 for process in processes), "\n\n".join(said)
    return {name: [torch.load(folder / f"{name}_{rank}.pt") for rank in range(world)] for name in scenarios}
