"""Copies of a fleet's members, trained one after another: the reference that engines are checked against."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from hetfed_lightning.data.blocks import StackedBatch
from hetfed_lightning.fleets.fleet import Fleet
from hetfed_lightning.fleets.member import Member
from hetfed_lightning.fleets.network import Network
from hetfed_lightning.fleets.shaping import shaped_alone
from hetfed_lightning.fleets.tolerance import step_tolerance
from hetfed_lightning.fleets.weight_terms import weight_terms_of
from hetfed_lightning.local_training.local_optimization import LocalOptimization
from hetfed_lightning.supervised import Supervised

REPEATS = 3
"""Number of timed steps; the fastest counts."""


@dataclass(frozen=True)
class Reference:
    """One step of K members, one after another.

    Attributes:
        wanted: Parameters after the step, shape ``(K, width)``, laid out as the stack of their fleet.
        lengths: Distance between each member's parameters before and after it, shape ``(K,)``.
        seconds: Seconds of the step of all members together.
    """

    wanted: Tensor
    lengths: Tensor
    seconds: float

    def difference(self, found: Tensor) -> str | None:
        """Fault of an engine's step that led to the parameters ``found``, shape ``(K, width)``; None if it is right."""
        precision, step = torch.finfo(self.wanted.dtype).eps, self.lengths
        apart = torch.stack([_distance(one, other) for one, other in zip(self.wanted, found, strict=True)])
        # Distance that rounding alone can make between numbers of this size.
        rounding = 4 * precision * torch.stack([one.double().norm() for one in self.wanted])
        tolerance = step_tolerance(self.wanted.dtype, self.wanted.device)
        # Participants that diverged are quarantined elsewhere.
        wrong = ~(apart <= tolerance * step + rounding) & torch.isfinite(step)
        if not bool(wrong.any()):
            return None
        worst = int((apart - tolerance * step).nan_to_num(torch.inf).argmax())
        return f"its step is off by {float(apart[worst] / step[worst]):.1e} of the step's length"


def _distance(one: Tensor, other: Tensor) -> Tensor:
    return torch.as_tensor((one - other).double().norm())


def copies_of(fleet: Fleet, places: Sequence[int]) -> Fleet:
    """Seated fleet of copies of some members; it shares the network, and the members are left as they are.

    Args:
        fleet: Fleet of the members.
        places: Places of the members to copy.
    """
    copies = Fleet(fleet.members[0], fleet.network)
    copies.enlist([_copied(fleet.members[place]) for place in places])
    copies.seat()
    terms = [term.pick(copies, places) for term in weight_terms_of(fleet)]
    copies.open_round(terms, [shape.pick(places) for shape in fleet.shapes])
    copies.unused = None if fleet.unused is None else [fleet.unused[place] for place in places]
    return copies


def _copied(member: Member) -> Member:
    parameters = {key: nn.Parameter(own.detach().clone()) for key, own in member.parameters.items()}
    held = dict(zip(parameters.values(), member.parameters.values(), strict=True))
    optimizer = _copied_optimizer(member, held)
    local = LocalOptimization(member.local.participant, [optimizer], [])
    return Member(member.name, local, parameters, optimizer)


def _copied_optimizer(member: Member, originals: Mapping[nn.Parameter, nn.Parameter]) -> Optimizer:
    """Optimizer like a member's, with a copy of its state, over the keys of ``originals``."""
    original = member.optimizer
    settings = {key: value for key, value in original.param_groups[0].items() if key != "params"}
    optimizer = type(original)([{"params": list(originals)} | settings])  # type: ignore[call-arg]
    for copy, own in originals.items():
        optimizer.state[copy] = {
            key: value.clone() if isinstance(value, Tensor) else value for key, value in original.state[own].items()
        }
    return optimizer


def sequential_step(fleet: Fleet, batch: StackedBatch, repeats: int = REPEATS) -> Reference:
    """Reference step of each member, one after another; the fleet keeps its values.

    Args:
        fleet: Copies, as :func:`copies_of` makes them.
        batch: One batch of each.
        repeats: Number of timed steps; 0 for no timing.
    """
    stack, _, _ = fleet.seated()
    moving = stack.flat.clone()
    steps = _steps(fleet, batch, moving)
    for step in steps:
        step()
    wanted = moving.clone()
    # One after another each time, so that a network's weights have left the cache when its turn comes again.
    timed = [seconds_of(lambda: [step() for step in steps], wanted.device) for _ in range(repeats)]
    lengths = [_distance(one, other) for one, other in zip(wanted, stack.flat, strict=True)]
    return Reference(wanted, torch.stack(lengths), min(timed, default=0.0))


def _steps(fleet: Fleet, batch: StackedBatch, flat: Tensor) -> list[Callable[[], None]]:
    """Functions that step each member, on networks with the rows of ``flat``, shape ``(K, width)``, as parameters."""
    stack, _, _ = fleet.seated()
    return [
        partial(_step, fleet, place, *_network_of(fleet, member, stack.row(place, flat)), own_batch(batch, place))
        for place, member in enumerate(fleet.members)
    ]


def _step(fleet: Fleet, place: int, network: Network, optimizer: Optimizer, batch: tuple[Any, Tensor]) -> None:
    parameters = {key: one for key, one in network.named_parameters() if key in fleet.layout}
    loss_of(fleet, place, network, parameters, *batch).backward()
    clip = fleet.members[place].local.participant.gradient_clip_val
    if clip is not None:
        clip_grad_norm_(optimizer.param_groups[0]["params"], clip)
    optimizer.step()
    optimizer.zero_grad()


def loss_of(
    fleet: Fleet, place: int, network: Network, parameters: Mapping[str, Tensor], inputs: Any, targets: Tensor
) -> Tensor:
    """Loss of one member's batch as methods shape it, with their terms of its weights, a scalar.

    Args:
        fleet: Fleet of the member in a round.
        place: Row of the member.
        network: Network under the member's parameters.
        parameters: These parameters, by key.
        inputs: Inputs of its batch, shape ``(B, ...)``.
        targets: Targets of its batch, shape ``(B, ...)``.
    """
    features, outputs = network.features_and_outputs(inputs)
    if fleet.shapes:
        seen = Supervised(inputs, features, outputs, targets)
        loss = shaped_alone(fleet.shapes, seen.losses(fleet.task), seen, place, network).mean()
    else:
        loss = fleet.task.loss(outputs, targets)
    for term in weight_terms_of(fleet):
        loss = loss + term.alone(place, parameters, network)
    return loss


def _network_of(fleet: Fleet, member: Member, row: Sequence[Tensor]) -> tuple[Network, Optimizer]:
    network = deepcopy(fleet.network)
    own = dict(network.named_parameters())
    for key, values in zip(fleet.layout, row, strict=True):
        own[key].data = values
    held = {own[key]: parameter for key, parameter in member.parameters.items()}
    return network, _copied_optimizer(member, held)


def own_batch(batch: StackedBatch, place: int) -> tuple[Any, Tensor]:
    """Inputs ``(B, ...)`` and targets ``(B, ...)`` of the participant in one place, padding left out.

    Args:
        batch: Batches of K participants.
        place: Place of the participant.
    """
    size = batch.sizes[place]
    return _first(batch.inputs, place, size), batch.targets[place, :size]


def _first(inputs: Any, place: int, size: int) -> Any:
    if isinstance(inputs, Mapping):
        return {key: _first(value, place, size) for key, value in inputs.items()}
    return inputs[place, :size]


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, with the work that it started on the device.

    Args:
        function: Function to call.
        device: Device that is waited for.
    """
    _wait_for(device)
    started = time.perf_counter()
    function()
    _wait_for(device)
    return time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
