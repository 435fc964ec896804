"""Rehearsal of what methods add to local steps: a step of copies together is held against one after another.

Engines are tried at a run's first batch, when nobody has received anything yet. A method's loss may take another way
once there is something, so that it is rehearsed again whenever the layout of its contexts is new.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch

from hetfed_lightning.data.blocks import StackedBatch
from hetfed_lightning.fleets.calibration import FEW, spread
from hetfed_lightning.fleets.contexts import layouts
from hetfed_lightning.fleets.engine import Engine
from hetfed_lightning.fleets.fleet import Fleet
from hetfed_lightning.fleets.independence import dependence
from hetfed_lightning.fleets.log_text import short_error
from hetfed_lightning.fleets.reference import copies_of, own_batch, sequential_step
from hetfed_lightning.fleets.weight_terms import weight_terms_of


def layouts_of(fleet: Fleet, count: int) -> set[Hashable]:
    """Layouts of the contexts that methods have of the first ``count`` members; empty without methods.

    Args:
        fleet: Fleet in a round.
        count: Number of members.
    """
    return set(layouts_by_row(fleet)[:count])


def layouts_by_row(fleet: Fleet) -> list[Hashable]:
    """Layout of the contexts that methods have of each member, row by row; empty without methods.

    Args:
        fleet: Fleet in a round.
    """
    contexts = [one.contexts for one in fleet.shapes] + [one.contexts for one in weight_terms_of(fleet)]
    return layouts(contexts) if contexts else []


def rehearse(fleet: Fleet, engine: Engine, batch: StackedBatch) -> str | None:
    """Reason why methods' losses cannot be computed for all members at once, as a clause after "since"; or None.

    The members keep their values and random streams are restored.

    Args:
        fleet: Seated fleet in a round.
        engine: Its engine.
        batch: One batch of each of the first members.
    """
    found = layouts_by_row(fleet)[: batch.count]
    first = [found.index(layout) for layout in dict.fromkeys(found)]
    places = sorted({*spread(batch.count, FEW), *first})
    copies, part = copies_of(fleet, places), batch.pick(places)
    device = copies.seated()[0].flat.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            for place in map(places.index, first):
                if (fault := dependence(copies, *own_batch(part, place), place)) is not None:
                    return fault
            reference = sequential_step(copies, part, repeats=0)
            copies.local_step(part, engine, 0)
        except Exception as error:  # noqa: BLE001 - what cannot be computed for all is left to each member
            return f"what methods add to its loss fails for all at once ({short_error(error)})"
    fault = reference.difference(copies.seated()[0].flat)
    return None if fault is None else f"with what methods add to its loss {fault}"
