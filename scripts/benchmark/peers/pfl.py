"""pfl-research (Granqvist et al., 2024): FederatedAveraging on its SimulatedBackend; one process.

Its in-memory data sets are read in their own order, without shuffling, as in its own benchmarks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional

from scripts.benchmark.peers.common import carry_out
from scripts.benchmark.rounds import PairClock
from scripts.benchmark.workloads import Data, Workload


class Scored(nn.Module):
    """A network with the loss and the metrics that pfl asks of it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """The network's outputs."""
        outputs: Tensor = self.network(inputs)
        return outputs

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of a batch."""
        return functional.cross_entropy(self(inputs), targets)

    def metrics(self, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
        """None: nobody evaluates."""
        del inputs, targets
        return {}


class Watch(TrainingProcessCallback):  # type: ignore[misc]
    """Tells the clock of rounds."""

    def __init__(self, clock: PairClock) -> None:
        self.clock = clock

    def on_train_begin(self, *, model: Any) -> Any:
        """The first round begins."""
        del model
        self.clock.open()
        return Metrics()

    def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
        """A round has ended, the next begins."""
        del aggregate_metrics, model, central_iteration
        self.clock.open()
        return False, Metrics()


def train(workload: Workload, data: dict[str, Data], rounds: int, clock: PairClock) -> nn.Module:
    """Federated averaging over all users."""
    np.random.seed(0)  # noqa: NPY002 - pfl draws from it
    names = list(data)
    users = FederatedDataset(
        lambda name: PyTorchTensorDataset(data[name], user_id=name), get_user_sampler("minimize_reuse", names)
    )
    scored = Scored(next(iter(workload.networks().values())))
    model = PyTorchModel(
        scored, local_optimizer_create=torch.optim.SGD, central_optimizer=torch.optim.SGD(scored.parameters(), lr=1.0)
    )
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,
            train_cohort_size=workload.participants,
            val_cohort_size=0,
        ),
        SimulatedBackend(users, users, postprocessors=[WeightByDatapoints()]),
        model,
        NNTrainHyperParams(local_batch_size=workload.batch_size, local_num_epochs=1, local_learning_rate=workload.rate),
        NNEvalHyperParams(local_batch_size=512),
        [Watch(clock)],
    )
    return scored


if __name__ == "__main__":
    carry_out(train)
