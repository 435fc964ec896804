"""Support for parameters in other dtypes than float32: optimizers that work in float16, inputs of the same dtype."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

log = logging.getLogger(__name__)

DEFAULT_LEARNING_RATE = 1e-3


def default_optimizer(parameters: list[nn.Parameter]) -> Optimizer:
    """Adam with learning rate 1e-3, and ``eps`` 1e-3 for parameters in float16.

    The usual ``eps`` of 1e-8 is zero in float16, where a gradient of zero then makes the weight NaN. Squares of
    gradients below 8e-3 are zero there as well, so that ``eps`` bounds the steps. On the digits, with a network of
    64-64-10 and three seeds, 1e-3 came closest to float32 (test loss .36, float32 .34; 1e-4 .39, 1e-2 .50).
    """
    eps = 1e-3 if any(parameter.dtype == torch.float16 for parameter in parameters) else 1e-8
    return torch.optim.Adam(parameters, lr=DEFAULT_LEARNING_RATE, eps=eps)


def warn_of_vanishing_eps(optimizer: Optimizer, label: str) -> None:
    """Warn of an optimizer whose ``eps`` is zero in the parameters' dtype.

    Adam and its kin divide by ``sqrt(v) + eps``, and in float16 ``v`` is zero for gradients below 8e-3.

    Args:
        optimizer: Optimizer of a participant.
        label: Participant in the message.
    """
    for group in optimizer.param_groups:
        eps, dtypes = group.get("eps"), {parameter.dtype for parameter in group["params"]}
        for dtype in dtypes if isinstance(eps, float) and eps > 0 else ():
            if torch.tensor(eps, dtype=dtype) == 0:
                log.warning(
                    "%s: eps=%g of its %s is zero in %s, and small gradients are divided by it; expect weights that "
                    "are not finite. Use eps=1e-3, SGD, or Trainer(precision='16-mixed').",
                    label, eps, type(optimizer).__name__, str(dtype).removeprefix("torch."),
                )  # fmt: skip


def converted(inputs: Any, dtype: torch.dtype) -> Any:
    """Inputs with their floating-point tensors in another dtype, shapes unchanged.

    Args:
        inputs: Tensor, or nested collection of tensors.
        dtype: Floating-point dtype of the Trainer's precision.
    """
    if isinstance(inputs, Tensor):
        return inputs.to(dtype) if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        return {key: converted(value, dtype) for key, value in inputs.items()}
    return type(inputs)(converted(value, dtype) for value in inputs) if type(inputs) in {list, tuple} else inputs
