"""Flower (Beutel et al., 2020): FedAvg on its simulation engine, which is Ray, a worker process per core."""

from __future__ import annotations

import os
from typing import Any

from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

from scripts.benchmark.hardware import resident_together
from scripts.benchmark.peers.common import carry_out
from scripts.benchmark.peers.flower_client import client_of
from scripts.benchmark.rounds import PairClock
from scripts.benchmark.workloads import Data, Workload


class Watched(FedAvg):
    """Tells the clock of rounds."""

    def __init__(self, clock: PairClock, participants: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=participants, min_available_nodes=participants)
        self.clock = clock

    def configure_train(self, *args: Any, **kwargs: Any) -> Any:
        """A round begins."""
        self.clock.open()
        return super().configure_train(*args, **kwargs)

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        """A round has ended."""
        replies = list(replies)
        for reply in replies:
            if reply.has_error():  # Flower would average the others.
                raise RuntimeError(f"a client failed in round {server_round}: {reply.error.reason}")
        result = super().aggregate_train(server_round, replies)
        self.clock.close()
        return result


def train(workload: Workload, data: dict[str, Data], rounds: int, clock: PairClock) -> nn.Module:
    """FedAvg over all nodes."""
    del data  # The workers make it.
    network = next(iter(workload.networks().values()))
    workers = os.cpu_count() or 1
    clock.record.workers = workers
    server = ServerApp()

    @server.main()
    def main(grid: Any, context: Any) -> None:
        del context
        strategy = Watched(clock, workload.participants)
        result = strategy.start(grid, ArrayRecord(network.state_dict()), num_rounds=rounds)
        network.load_state_dict(result.arrays.to_torch_state_dict())

    run_simulation(
        server,
        client_of(workload.name),
        workload.participants,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": workers}},
    )
    return network


if __name__ == "__main__":
    carry_out(train, resident_together)
