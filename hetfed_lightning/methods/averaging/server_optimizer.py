"""The step of FedOpt: what the federation shares follows the averaged change by an optimizer of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from hetfed_lightning.distillation.outputs import at_least_float32


class ServerOptimizer:
    """A torch optimizer on the shared parameters, whose gradient is the averaged change with its sign turned.

    It computes in float32 at least: half precision has no room for its averages of gradients and their squares.

    Args:
        state: The shared parameters by key.
        factory: Called with the parameters, returns the optimizer.

    Reference:
        Reddi et al. (2021), Adaptive Federated Optimization, Algorithm 2.
    """

    def __init__(self, state: Mapping[str, Tensor], factory: OptimizerCallable) -> None:
        self.parameters = {key: nn.Parameter(at_least_float32(tensor).clone()) for key, tensor in state.items()}
        self.optimizer = factory(list(self.parameters.values()))

    @torch.no_grad()
    def step(self, previous: Mapping[str, Tensor], aggregate: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters' next values, in the dtypes of the previous ones.

        Args:
            previous: What was shared before the round.
            aggregate: What the rule made of the participants' states.
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
        """Go on with a checkpoint's."""
        self.optimizer.load_state_dict(state)
