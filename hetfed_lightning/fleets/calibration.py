"""Choice of the engine that trains a fleet: each is tried on a real batch and checked against one member after another.

The trial runs on copies of a few members first. The stack of all members is made only for an engine that is right and
fast on those, since memory may not hold it otherwise: batched convolutions of twenty networks take a gigabyte.
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
from hetfed_lightning.fleets.log_text import short_error
from hetfed_lightning.fleets.network import without_methods
from hetfed_lightning.fleets.reference import REPEATS, Reference, copies_of, own_batch, seconds_of, sequential_step
from hetfed_lightning.fleets.vmap import VmapEngine
from hetfed_lightning.fleets.weight_terms import weight_terms_of
from hetfed_lightning.shared_storage.deduplicate import Twins

FEW = 8
"""Number of members that are copied and trained one after another, for engines to be compared with."""

FEWER = 4
"""Their number where the copies would take more than ``COPIED_BYTES``."""

COPIED_BYTES = 32 * 2**20

SLOWER = 1.1
"""Time of an engine's step on the copies, over the sequential one's, above which the engine is given up."""

WORTHWHILE = 1.2
"""Speed-up that an engine must reach to be taken. Runs whose timings differ in noise alone should agree in the engine,
since the last digits of the results differ by engine."""

COMPUTING = 0.01
"""Seconds of one participant's step on a CPU, above which arithmetic outweighs the calls of operations. Calls are all
that ``vmap`` saves: about a millisecond of a step, less than a sixth of such a long one."""


@dataclass(frozen=True)
class Trial:
    """Outcome of trying one engine.

    Attributes:
        name: Name of the engine.
        engine: The engine; None for the sequential one and for one that failed.
        seconds: Seconds of one step of all members.
        fault: Reason why it cannot be used, or None.
    """

    name: EngineName
    engine: Engine | None = None
    seconds: float = float("inf")
    fault: str | None = None


def engine_named(name: EngineName, fleet: Fleet, inputs: Any) -> Engine | None:
    """Engine for a fleet, or None if the engine does not support the fleet's network.

    Args:
        name: ``"vmap"`` or ``"batched"``.
        fleet: Fleet whose network the engine is to run.
        inputs: Inputs of one batch or more, shape ``(K, B, ...)``.
    """
    if name == "vmap":
        return VmapEngine(fleet.network, fleet.task, fleet.compile_settings)
    first = inputs[0] if isinstance(inputs, Tensor) else None
    layers = None if first is None else chain_of(fleet.network, without_methods(fleet.members[0].parameters), first)
    return None if layers is None else BatchedEngine(fleet.network, fleet.task, layers)


def try_engines(
    fleet: Fleet, batch: StackedBatch, names: Sequence[EngineName], *, choose: bool
) -> dict[EngineName, Trial]:
    """Trials of each engine, the sequential one's first; engines are checked on a batch and timed.

    The members keep their values; they may be seated afterwards.

    Args:
        fleet: Fleet with its members enlisted.
        batch: One batch of each of the first members.
        names: Engines to try, in this order, until one is worth it; without ``"sequential"``.
        choose: True to give up engines that are slow on the copies.

    Returns:
        A trial for each engine that was tried, by its name.
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
    """Evenly spread places below ``count``, first and last included.

    Args:
        count: Number of places.
        most: Largest number of places to return.
    """
    if count <= most:
        return list(range(count))
    return [place * (count - 1) // (most - 1) for place in range(most)]


def _computes(seconds: float, reference: Reference) -> bool:
    return reference.wanted.device.type == "cpu" and seconds > COMPUTING


def fastest(trials: Mapping[EngineName, Trial]) -> Trial:
    """Trial of the engine to take: the sequential one, unless another is clearly faster."""
    best = trials["sequential"]
    for name in ("vmap", "batched"):
        trial = trials.get(name)
        if trial is not None and trial.fault is None and trial.seconds * WORTHWHILE < best.seconds:
            best = trial
    return best


@dataclass(frozen=True)
class _Few:
    """Copies of the members in some places, their batches, and the parameters after one sequential step."""

    copies: Fleet
    batch: StackedBatch
    places: list[int]
    reference: Reference


def _trial(name: EngineName, fleet: Fleet, batch: StackedBatch, few: _Few, *, choose: bool) -> Trial:
    """Trial of one engine, on the copies and then on all members."""
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
        return Trial(name, fault=short_error(error))
    return Trial(name, engine, seconds) if fault is None else Trial(name, fault=fault)


def _run(
    engine: Engine, fleet: Fleet, batch: StackedBatch, reference: Reference, places: list[int]
) -> tuple[float, str | None]:
    """Seconds of a step, and its fault for the members in ``places``, or None; the fleet keeps its values."""
    stack, _, _ = fleet.seated()
    kept, terms = _Kept(fleet, batch.count), weight_terms_of(fleet)
    try:
        fleet.local_step(batch, engine, 0, terms=terms)
        fault = reference.difference(stack.flat[places])
        if fault is not None:
            return float("inf"), fault
        seconds = []
        for _ in range(REPEATS):
            kept.restore()
            seconds.append(seconds_of(lambda: fleet.local_step(batch, engine, 0, terms=terms), stack.flat.device))
    finally:
        kept.restore()
        stack.free_gradients()  # The engine that is taken may need none.
    return min(seconds), None


class _Kept:
    """Copy of a fleet's parameters and optimizer states; tensors that several members have alike are kept once.

    Args:
        fleet: Seated fleet.
        count: Number of first members to copy.
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
