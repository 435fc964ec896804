"""Which engine trains a fleet: tried on a real batch, on copies, checked against one participant after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from hetfed_lightning.data.blocks import StackedBatch
from hetfed_lightning.fleets.batched import BatchedEngine
from hetfed_lightning.fleets.chain import chain_of
from hetfed_lightning.fleets.engine import Engine, EngineName
from hetfed_lightning.fleets.fleet import Fleet, Member
from hetfed_lightning.fleets.tolerance import step_tolerance
from hetfed_lightning.fleets.vmap import VmapEngine

REPEATS = 3
"""Timed steps of each engine, after the one that is checked; the fastest counts."""

FEW = 8
"""Members that an engine is tried on before it is tried on all."""

SLOWER = 1.1
"""How much slower than the sequential engine it may be with those few."""

WORTHWHILE = 1.2
"""How much faster an engine must be to be taken: runs that differ in noise alone should agree in the engine, whose
last digits differ."""


@dataclass(frozen=True)
class Trial:
    """What became of one engine.

    Attributes:
        name: The engine.
        engine: Itself, None for the sequential one and for one that failed.
        seconds: Of a step.
        fault: Why it cannot be used, or None.
    """

    name: EngineName
    engine: Engine | None = None
    seconds: float = float("inf")
    fault: str | None = None


def engine_named(name: EngineName, fleet: Fleet, batch: StackedBatch) -> Engine | None:
    """An engine for a fleet, or None where its network is not of the kind that the engine takes.

    Args:
        name: ``"vmap"`` or ``"batched"``.
        fleet: Its members seated.
        batch: One batch of each.
    """
    if name == "vmap":
        return VmapEngine(fleet.network, fleet.task, fleet.compile_settings)
    inputs = batch.inputs[0] if isinstance(batch.inputs, Tensor) else None
    layers = None if inputs is None else chain_of(fleet.network, fleet.members[0].parameters, inputs)
    return None if layers is None else BatchedEngine(fleet.network, fleet.task, layers)


def choose_engine(fleet: Fleet, batch: StackedBatch, names: Sequence[EngineName]) -> dict[EngineName, Trial]:
    """As :func:`try_engines`, on a few members first.

    What is slow for a few is not fast for many, and many may ask for memory that there is not: batched convolutions of
    twenty participants take a gigabyte.
    """
    if batch.count > FEW:
        few = try_engines(fleet, batch.first(FEW), names)
        slowest = SLOWER * few["sequential"].seconds
        names = [name for name in names if name in few and few[name].fault is None and few[name].seconds < slowest]
        if not names:
            return few
    return try_engines(fleet, batch, names)


def try_engines(fleet: Fleet, batch: StackedBatch, names: Sequence[EngineName]) -> dict[EngineName, Trial]:
    """Time engines on a batch and check each; the fleet is left as it was.

    Args:
        fleet: Its members seated.
        batch: One batch of each of the first members.
        names: Engines to try in this order until one is worth it, ``"sequential"`` left out.

    Returns:
        A trial of each that was tried, the sequential engine's first.
    """
    stack, optimizer, _ = fleet.seated()
    held = [stack.flat, optimizer.steps, *optimizer.state.values()]
    kept = [tensor[: batch.count].clone() for tensor in held]

    def restore() -> None:
        for tensor, copy in zip(held, kept, strict=True):
            tensor[: batch.count] = copy

    wanted, seconds = _sequential(fleet, batch)
    trials: dict[EngineName, Trial] = {"sequential": Trial("sequential", None, seconds)}
    for name in names:
        if fastest(trials).engine is not None:
            break
        trials[name] = _trial(name, fleet, batch, kept[0], wanted, restore)
        restore()
        stack.free_gradients()  # The engine that is taken may need none.
    return trials


def fastest(trials: Mapping[EngineName, Trial]) -> Trial:
    """The engine to take: the sequential one unless another is clearly faster."""
    best = trials["sequential"]
    for name in ("vmap", "batched"):
        trial = trials.get(name)
        if trial is not None and trial.fault is None and trial.seconds * WORTHWHILE < best.seconds:
            best = trial
    return best


def _trial(
    name: EngineName, fleet: Fleet, batch: StackedBatch, start: Tensor, wanted: Tensor, restore: Callable[[], None]
) -> Trial:
    stack, _, _ = fleet.seated()
    try:
        engine = engine_named(name, fleet, batch)
        if engine is None:
            return Trial(name, fault="the network is no chain of linear layers and activations")
        fleet.step(batch, engine)
        fault = _difference(start, wanted, stack.flat[: batch.count])
        if fault is not None:
            return Trial(name, fault=fault)
        seconds = []
        for _ in range(REPEATS):
            restore()
            seconds.append(_timed(lambda: fleet.step(batch, engine), stack.flat.device))
    except Exception as error:  # noqa: BLE001 - whatever an engine cannot do is left to the sequential one
        return Trial(name, fault=shortly(error))
    return Trial(name, engine, min(seconds))


def shortly(error: Exception) -> str:
    """An error in a line, its kind first."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def _difference(start: Tensor, wanted: Tensor, found: Tensor) -> str | None:
    """What is wrong with a step that should have led from ``start`` to ``wanted``, rows being participants."""
    precision = torch.finfo(start.dtype).eps
    step, apart = _distances(wanted, start), _distances(wanted, found)
    # What rounding alone can do to numbers of this size.
    rounding = 4 * precision * _distances(wanted, None)
    tolerance = step_tolerance(start.dtype, start.device)
    # A participant whose numbers ran away is the guard's business.
    wrong = ~(apart <= tolerance * step + rounding) & torch.isfinite(step)
    if not bool(wrong.any()):
        return None
    worst = int((apart - tolerance * step).nan_to_num(torch.inf).argmax())
    return f"its step is off by {float(apart[worst] / step[worst]):.1e} of the step's length"


def _distances(one: Tensor, other: Tensor | None) -> Tensor:
    """Distance of each row from its counterpart, or from zero; a row at a time, since a stack may be large."""
    pairs = zip(one, one if other is None else other, strict=True)
    return torch.stack([(a if other is None else a - b).double().norm() for a, b in pairs])


def _sequential(fleet: Fleet, batch: StackedBatch) -> tuple[Tensor, float]:
    """Where one step of each participant after another leads, shape ``(K, width)``, and how long it takes."""
    stack, _, _ = fleet.seated()
    network = deepcopy(fleet.network)  # One for all, one after another: calibrating takes no memory to speak of.
    own = dict(network.named_parameters())
    parameters = [own[key] for key in fleet.layout]
    wanted, seconds = torch.zeros_like(stack.flat[: batch.count]), 0.0
    for place, member in enumerate(fleet.members[: batch.count]):
        optimizer, size = _copy_of(member, parameters, stack.row(place)), batch.sizes[place]
        inputs, targets = _rows(batch.inputs, place, size), batch.targets[place, :size]
        clip = member.local.participant.gradient_clip_val

        def step(
            inputs: Any = inputs, targets: Tensor = targets, optimizer: Optimizer = optimizer, clip: float | None = clip
        ) -> None:
            fleet.task.loss(network(inputs), targets).backward()
            if clip is not None:
                clip_grad_norm_(parameters, clip)
            optimizer.step()
            optimizer.zero_grad()

        step()
        for parameter, row in zip(parameters, stack.row(place, wanted), strict=True):
            row.copy_(parameter.detach())
        seconds += min(_timed(step, stack.flat.device) for _ in range(REPEATS))
    return wanted, seconds


@torch.no_grad()
def _copy_of(member: Member, parameters: Sequence[nn.Parameter], row: Sequence[Tensor]) -> Optimizer:
    """Bring a member's weights into ``parameters``, and make an optimizer of them as far as its own is."""
    for parameter, weights in zip(parameters, row, strict=True):
        parameter.copy_(weights)
    original = member.local.optimizers[0]
    settings = {key: value for key, value in original.param_groups[0].items() if key != "params"}
    optimizer = type(original)([{"params": list(parameters)} | settings])  # type: ignore[call-arg]
    for parameter, held in zip(parameters, original.param_groups[0]["params"], strict=True):
        optimizer.state[parameter] = {key: _copied(value) for key, value in original.state[held].items()}
    return optimizer


def _rows(inputs: Any, place: int, size: int) -> Any:
    if isinstance(inputs, Mapping):
        return {key: _rows(value, place, size) for key, value in inputs.items()}
    return inputs[place, :size]


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _timed(function: Callable[[], object], device: torch.device) -> float:
    _wait_for(device)
    started = time.perf_counter()
    function()
    _wait_for(device)
    return time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
