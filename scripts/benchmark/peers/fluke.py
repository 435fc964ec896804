"""fluke (Polato et al., 2024): its FedAVG on its FastDataLoader, evaluation off; one process."""

from __future__ import annotations

from typing import Any

from fluke import DDict, FlukeENV
from fluke.algorithms.fedavg import FedAVG
from fluke.data import DataSplitter, DummyDataContainer, FastDataLoader
from fluke.utils import FederationObserver
from torch import nn

from scripts.benchmark.peers.common import carry_out
from scripts.benchmark.rounds import PairClock
from scripts.benchmark.workloads import Data, Workload


class Watch(FederationObserver):  # type: ignore[misc]
    """Tells the clock of rounds."""

    def __init__(self, clock: PairClock) -> None:
        self.clock = clock

    def start_round(self, round: int, global_model: Any) -> None:  # noqa: A002 - fluke's name
        """A round begins."""
        del round, global_model
        self.clock.open()

    def end_round(self, round: int) -> None:  # noqa: A002 - fluke's name
        """A round has ended."""
        del round
        self.clock.close()


def train(workload: Workload, data: dict[str, Data], rounds: int, clock: PairClock) -> nn.Module:
    """FedAVG over all clients."""
    environment = FlukeENV()
    environment.set_seed(0)
    environment.set_eval_cfg(server=False, locals=False, pre_fit=False, post_fit=False)
    loaders = [
        FastDataLoader(*own, num_labels=workload.classes, batch_size=workload.batch_size, shuffle=True)
        for own in data.values()
    ]
    test = FastDataLoader(*workload.test(), num_labels=workload.classes, batch_size=512)
    container = DummyDataContainer(loaders, [None] * len(loaders), test, workload.classes)
    client = {
        "batch_size": workload.batch_size,
        "local_epochs": 1,
        "loss": "CrossEntropyLoss",
        "optimizer": {"name": "SGD", "lr": workload.rate},
        "scheduler": {"name": "StepLR", "step_size": 1, "gamma": 1},
    }
    model: nn.Module = next(iter(workload.networks().values()))
    algorithm = FedAVG(
        workload.participants,
        DataSplitter(container),
        DDict(client=client, server={"weighted": True}, model=model),
    )
    algorithm.set_callbacks([Watch(clock)])
    algorithm.run(rounds, 1.0)
    trained: nn.Module = algorithm.server.model
    return trained


if __name__ == "__main__":
    carry_out(train)
