"""Which engine trains a fleet: tried on a real batch and checked against one participant after another.

First on copies of a few; the stack of all is made for an engine alone that is right and fast for those. Many might take
memory that there is not: batched convolutions of twenty networks take a gigabyte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hetfed_lightning.data.blocks import StackedBatch
from hetfed_lightning.fleets.batched import BatchedEngine
from hetfed_lightning.fleets.chain import chain_of
from hetfed_lightning.fleets.engine import Engine, EngineName
from hetfed_lightning.fleets.fleet import Fleet
from hetfed_lightning.fleets.independence import dependence
from hetfed_lightning.fleets.reference import REPEATS, Reference, copies_of, own_batch, seconds_of, sequential_step
from hetfed_lightning.fleets.vmap import VmapEngine
from hetfed_lightning.fleets.wording import shortly
from hetfed_lightning.twins import Twins

FEW = 8
"""Members that are copied, trained one after another, and compared with."""

FEWER = 4
"""So many where the copies would take more than ``COPIED_BYTES``."""

COPIED_BYTES = 32 * 2**20

SLOWER = 1.1
"""How much slower than the sequential engine it may be with those few."""

WORTHWHILE = 1.2
"""How much faster an engine must be to be taken: runs that differ in noise alone should agree in the engine, whose
last digits differ."""

COMPUTING = 0.01
"""Seconds of one participant's step on a CPU from which on it computes more than it calls operations. Calling them is
what ``vmap`` saves: a millisecond of a step, which is then no sixth of it."""


@dataclass(frozen=True)
class Trial:
    """What became of one engine.

    Attributes:
        name: The engine.
        engine: Itself, None for the sequential one and for one that failed.
        seconds: Of a step of all.
        fault: Why it cannot be used, or None.
    """

    name: EngineName
    engine: Engine | None = None
    seconds: float = float("inf")
    fault: str | None = None


def engine_named(name: EngineName, fleet: Fleet, inputs: Any) -> Engine | None:
    """An engine for a fleet, or None where its network is not of the kind that the engine takes.

    Args:
        name: ``"vmap"`` or ``"batched"``.
        fleet: Whose network it is to run.
        inputs: Of one batch or more, shape ``(K, B, ...)``.
    """
    if name == "vmap":
        return VmapEngine(fleet.network, fleet.task, fleet.compile_settings)
    first = inputs[0] if isinstance(inputs, Tensor) else None
    layers = None if first is None else chain_of(fleet.network, fleet.members[0].parameters, first)
    return None if layers is None else BatchedEngine(fleet.network, fleet.task, layers)


def try_engines(
    fleet: Fleet, batch: StackedBatch, names: Sequence[EngineName], *, choose: bool
) -> dict[EngineName, Trial]:
    """Check engines on a batch and time them; the members are left as they were, though perhaps seated.

    Args:
        fleet: Its members enlisted.
        batch: One batch of each of the first members.
        names: Engines to try in this order until one is worth it, ``"sequential"`` left out.
        choose: Whether those that are slow for a few are given up.

    Returns:
        A trial of each, the sequential engine's first.
    """
    size = sum(parameter.nbytes for parameter in fleet.members[0].parameters.values())
    places = spread(batch.count, FEW if FEW * size <= COPIED_BYTES else FEWER)
    copies, part = copies_of(fleet, places), batch.pick(places)
    reference = sequential_step(copies, part)
    alone = reference.seconds / len(places)
    trials: dict[EngineName, Trial] = {"sequential": Trial("sequential", None, alone * batch.count)}
    for name in names:
        if fastest(trials).engine is not None:
            break
        if name == "vmap" and "batched" in trials and trials["batched"].engine is not None:
            break  # Products by hand are faster wherever they can be made.
        if choose and name == "vmap" and fleet.compile_settings is None and _computes(alone, reference):
            trials[name] = Trial(name, fault=f"not tried, since a step computes for {1e3 * alone:.0f} ms")
            continue
        trials[name] = _trial(name, fleet, batch, _Few(copies, part, places, reference), choose=choose)
    return trials


def spread(count: int, most: int) -> list[int]:
    """At most so many places below ``count``, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [place * (count - 1) // (most - 1) for place in range(most)]


def _computes(seconds: float, reference: Reference) -> bool:
    return reference.wanted.device.type == "cpu" and seconds > COMPUTING


def fastest(trials: Mapping[EngineName, Trial]) -> Trial:
    """The engine to take: the sequential one unless another is clearly faster."""
    best = trials["sequential"]
    for name in ("vmap", "batched"):
        trial = trials.get(name)
        if trial is not None and trial.fault is None and trial.seconds * WORTHWHILE < best.seconds:
            best = trial
    return best


@dataclass(frozen=True)
class _Few:
    """Copies of the members in some places, their batches, and where one step leads them."""

    copies: Fleet
    batch: StackedBatch
    places: list[int]
    reference: Reference


def _trial(name: EngineName, fleet: Fleet, batch: StackedBatch, few: _Few, *, choose: bool) -> Trial:
    """An engine on the copies, and then on all."""
    everyone = list(range(few.batch.count))
    try:
        engine = engine_named(name, fleet, batch.inputs)
        if engine is None:
            return Trial(name, fault="the network is no chain of linear layers and activations")
        seconds, fault = 0.0, dependence(few.copies, *own_batch(few.batch, 0))
        if fault is None:
            seconds, fault = _run(engine, few.copies, few.batch, few.reference, everyone)
        if fault is not None:
            return Trial(name, fault=fault)
        if few.places == everyone:
            return Trial(name, engine, seconds)
        if choose and seconds > SLOWER * few.reference.seconds:
            return Trial(name, engine, seconds * batch.count / few.batch.count)
        fleet.seat()
        seconds, fault = _run(engine, fleet, batch, few.reference, few.places)
    except Exception as error:  # noqa: BLE001 - whatever an engine cannot do is left to the sequential one
        return Trial(name, fault=shortly(error))
    return Trial(name, engine, seconds) if fault is None else Trial(name, fault=fault)


def _run(
    engine: Engine, fleet: Fleet, batch: StackedBatch, reference: Reference, places: list[int]
) -> tuple[float, str | None]:
    """Seconds of a step, and what is wrong with it for the members in ``places``; the fleet is left as it was."""
    stack, _, _ = fleet.seated()
    kept = _Kept(fleet, batch.count)
    try:
        fleet.step(batch, engine)
        fault = reference.difference(stack.flat[places])
        if fault is not None:
            return float("inf"), fault
        seconds = []
        for _ in range(REPEATS):
            kept.restore()
            seconds.append(seconds_of(lambda: fleet.step(batch, engine), stack.flat.device))
    finally:
        kept.restore()
        stack.free_gradients()  # The engine that is taken may need none.
    return min(seconds), None


class _Kept:
    """A fleet's parameters and optimizer states, to return to; what several have alike is kept once.

    Args:
        fleet: Seated.
        count: Of its first members.
    """

    def __init__(self, fleet: Fleet, count: int) -> None:
        stack, optimizer, _ = fleet.seated()
        twins, copies = Twins(), dict[int, Tensor]()
        self._steps = (optimizer.steps, optimizer.steps.clone())
        self._pairs: list[tuple[Tensor, Tensor]] = []
        for kind, flat in enumerate((stack.flat, *optimizer.state.values())):
            for place in range(count):
                for key, own in enumerate(stack.row(place, flat)):
                    twin = twins.of((kind, key), own)
                    if twin is own:
                        copies[id(own)] = own.clone()
                    self._pairs.append((own, copies[id(twin)]))

    def restore(self) -> None:
        """Bring everything back."""
        for own, copy in (self._steps, *self._pairs):
            own.copy_(copy)
