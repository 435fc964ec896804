"""Adaptive server optimizers as their paper has them: a floor in place of a bias correction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

Rule = Literal["adam", "yogi", "adagrad"]


class AdaptiveOptimizer(Optimizer):
    """Steps ``x + lr m / (sqrt(v) + tau)``, where m and v are means of changes and of their squares.

    m begins at 0 and v at ``tau**2``; nothing is corrected for that, where torch's Adam divides both by how much of
    them has been seen.

    Args:
        parameters: Parameters whose gradients are negative changes.
        rule: How the mean of squares is kept: ``"adam"``: ``b2 v + (1 - b2) d^2``; ``"yogi"``:
            ``v - (1 - b2) d^2 sign(v - d^2)``; ``"adagrad"``: ``v + d^2``.
        lr: Server learning rate, above 0.
        betas: Weights of the past in m and in v, each in [0, 1); the second is unused by ``"adagrad"``.
        tau: Degree of adaptivity, above 0: the smaller, the more alike the steps of all coordinates.

    Raises:
        ValueError: If a setting is out of its range.

    Reference:
        Reddi et al. (2021), Adaptive Federated Optimization, Algorithm 2, where v begins at any value of at least
        tau^2.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        rule: Rule,
        lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.99),
        tau: float = 1e-3,
    ) -> None:
        for name, value in (("lr", lr), ("tau", tau)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a finite number above 0, got {value}.")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas: expected two numbers in [0, 1), got {betas}.")
        super().__init__(parameters, {"rule": rule, "lr": lr, "betas": tuple(betas), "tau": tau})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Result of the closure, if there is one, after a step of all parameters."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _step(parameter, -parameter.grad, self.state[parameter], group)
        return loss


def _step(parameter: Tensor, change: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    first, second = group["betas"]
    mean = state.get("mean", torch.zeros_like(parameter))
    squares = state.get("squares", torch.full_like(parameter, group["tau"] ** 2))
    state["mean"] = mean = first * mean + (1 - first) * change
    squared = change.square()
    if group["rule"] == "adagrad":
        squares = squares + squared
    elif group["rule"] == "yogi":
        squares = squares - (1 - second) * squared * (squares - squared).sign()
    else:
        squares = second * squares + (1 - second) * squared
    state["squares"] = squares
    parameter.add_(group["lr"] * mean / (squares.sqrt() + group["tau"]))
