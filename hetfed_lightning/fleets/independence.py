"""Check that a network treats each example by itself; fleets rely on it when they fill up short batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hetfed_lightning.fleets.fleet import Fleet
from hetfed_lightning.fleets.log_text import short_error
from hetfed_lightning.fleets.network import Network
from hetfed_lightning.fleets.shaping import shaped_alone
from hetfed_lightning.fleets.tolerance import output_tolerance
from hetfed_lightning.supervised import Supervised

LEAST = 4
"""Least number of examples in the batch that is tried; those of a smaller one are repeated."""

MOVED = 0.1
"""Standard deviation of the noise added to the weights for a second trial: a head or a gate of zeros hides the modules
before it, and will not stay at zero."""


def dependence(fleet: Fleet, inputs: Any, targets: Tensor | None = None, place: int = 0) -> str | None:
    """Reason why a fleet's batches may not be filled up, as a clause that follows "since"; None if they may.

    A copy of the network runs on the batch as it is, cut short, and followed by zeros and further examples. Random
    streams are restored.

    Args:
        fleet: Fleet with its members enlisted.
        inputs: Inputs of one member's batch, shape ``(B, ...)``, or a mapping of several.
        targets: Targets of the same batch, shape ``(B, ...)``; None to compare the outputs alone.
        place: Row of the member whose contexts methods shape the losses with.
    """
    own = {key: parameter.detach() for key, parameter in fleet.members[0].parameters.items()}
    size = len(inputs if isinstance(inputs, Tensor) else next(iter(inputs.values())))
    rows = torch.arange(max(size, LEAST)) % size
    inputs = _each(inputs, lambda tensor: tensor[rows.to(tensor.device)])
    targets = None if targets is None else targets[rows.to(targets.device)]
    device = next(iter(own.values())).device
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            if (fault := _fault(fleet, own, inputs, targets, place)) is not None:
                return fault
        except Exception as error:  # noqa: BLE001 - whatever a network cannot do is left to each member
            return f"its network was tried on batches of other sizes ({short_error(error)})"
        try:
            return _fault(fleet, _moved(own), inputs, targets, place)
        except Exception:  # noqa: BLE001 - weights that nobody has need not be possible ones
            return None


def _fault(
    fleet: Fleet, parameters: Mapping[str, Tensor], inputs: Any, targets: Tensor | None, place: int
) -> str | None:
    network, size = deepcopy(fleet.network), len(inputs if isinstance(inputs, Tensor) else next(iter(inputs.values())))

    def found(change: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        own = _each(inputs, change)
        target = None if targets is None else change(targets)
        return network.under(parameters, partial(_computed, fleet, network, own, target, place))

    whole = found(lambda tensor: tensor)
    if _differ(whole, found(lambda tensor: tensor), size):
        return None  # It draws random numbers, which engines refuse by themselves.
    cut = found(lambda tensor: tensor[: size // 2])
    filled = found(
        lambda tensor: torch.cat([tensor, torch.zeros_like(tensor[: size // 2]), tensor.flip(0)[: size - 1]])
    )
    if _differ(whole, cut, size // 2) or _differ(whole, filled, size):
        return "what it computes for an example depends on the others in its batch, and short batches are filled up"
    return None


def _computed(fleet: Fleet, network: Network, inputs: Any, target: Tensor | None, place: int) -> tuple[Tensor, ...]:
    """Outputs, and with targets what losses are made of them."""
    features, outputs = network.features_and_outputs(inputs)
    if target is None:
        return (outputs,)
    losses, weights = fleet.task.example_losses(outputs, target)
    seen = Supervised(inputs, features, outputs, target)
    return outputs, losses, weights, shaped_alone(fleet.shapes, losses, seen, place, network)


def _differ(these: tuple[Tensor, ...], others: tuple[Tensor, ...], size: int) -> bool:
    """True if the first ``size`` examples differ by more than rounding explains."""
    for whole, other in zip(these, others, strict=True):
        if whole.shape[1:] != other.shape[1:] or len(other) < size:
            return True
        one, two = whole[:size], other[:size]
        largest = float(one.abs().nan_to_num(0.0, 0.0).amax()) if one.numel() else 0.0
        bound = output_tolerance(one.dtype, one.device) * largest if one.is_floating_point() else 0.0
        if not torch.allclose(one, two, rtol=0.0, atol=bound, equal_nan=True):
            return True
    return False


def _moved(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: own + MOVED * torch.randn(own.shape, generator=generator).to(own) for key, own in parameters.items()}


def _each(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return {key: change(value) for key, value in inputs.items()} if isinstance(inputs, Mapping) else change(inputs)
