"""Parts of plans in a fleet: the parameters that each of its rows trains in a step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

from hetfed_lightning.fleets.parts import Trained
from hetfed_lightning.participants.key_patterns import selected

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.member import Member


def trained_in(
    federation: FederationView, fleet: Fleet, members: Sequence[Member], batch_idx: int
) -> tuple[Trained, ...] | None:
    """Parameters that the first rows of a fleet train in a step; None if that is all of everyone's.

    Args:
        federation: Federation in a round.
        fleet: Fleet of the members.
        members: Members with a batch, in the order of their rows.
        batch_idx: Index of the batch in the round.
    """
    if federation.plans.is_empty:
        return None
    patterns = []
    for one in members:
        span = federation.plans.span_at(federation, one.name, batch_idx)
        patterns.append(None if span is None or span.part.trains_everything else span.part.patterns)
    if not any(patterns):
        return None
    found, start = [], 0
    for trains, run in groupby(patterns):
        stop = start + len(list(run))
        keys = None if trains is None else keys_trained(fleet, trains)
        found.append(Trained(slice(start, stop), keys))
        start = stop
    return tuple(found)


def keys_trained(fleet: Fleet, trains: tuple[str, ...]) -> tuple[str, ...]:
    """Keys of the parameters that a part of a plan trains, in the order of the stack.

    Args:
        fleet: Fleet of the members that train it.
        trains: Patterns of the part.
    """
    return _keys(tuple(fleet.everything), tuple(fleet.layout), trains)


@lru_cache(maxsize=256)
def _keys(everything: tuple[str, ...], layout: tuple[str, ...], trains: tuple[str, ...]) -> tuple[str, ...]:
    # Of all keys: a pattern may match frozen parameters alone, which are in no stack.
    chosen = set(selected(everything, trains))
    return tuple(key for key in layout if key in chosen)
