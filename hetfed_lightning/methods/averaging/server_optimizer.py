"""Server's step of FedOpt: an optimizer of torch moves the shared state along the averaged change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from hetfed_lightning.distillation.outputs import at_least_float32


class ServerOptimizer:
    """Optimizer of torch on the shared parameters, with the negative averaged change as their gradient.

    It computes in float32 at least: half precision cannot hold its averages of gradients and their squares.

    Args:
        state: Shared parameters by key.
        factory: Called with the parameters, returns the optimizer.

    Reference:
        Reddi et al. (2021), Adaptive Federated Optimization, Algorithm 2.
    """

    def __init__(self, state: Mapping[str, Tensor], factory: OptimizerCallable) -> None:
        self.parameters = {key: nn.Parameter(at_least_float32(tensor).clone()) for key, tensor in state.items()}
        self.optimizer = factory(list(self.parameters.values()))

    @torch.no_grad()
    def step(self, previous: Mapping[str, Tensor], aggregate: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Next values of the parameters by key, in the shapes and dtypes of the previous ones.

        Args:
            previous: Shared parameters before the round, by key.
            aggregate: Result of the aggregation rule, by key, in the same shapes.
        """
        for key, parameter in self.parameters.items():
            parameter.copy_(previous[key])
            parameter.grad = parameter - aggregate[key]
        self.optimizer.step()
        return {
            key: parameter.detach().to(previous[key].dtype, copy=True) for key, parameter in self.parameters.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """State of the optimizer, for a checkpoint."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        self.optimizer.load_state_dict(state)
