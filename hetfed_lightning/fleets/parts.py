"""Neighbouring rows of a stack that train the same parameters in a step, as plans ask."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Trained:
    """Neighbouring rows of a stack that train the same parameters in a step.

    Attributes:
        rows: The rows.
        keys: Keys of the parameters, in the order of the layout; None for all.
    """

    rows: slice
    keys: tuple[str, ...] | None


def narrowed(
    trained: Sequence[Trained] | None, unused: Sequence[AbstractSet[str]], layout: Sequence[str]
) -> tuple[Trained, ...]:
    """Parts without the parameters of which a row's loss is no function: optimizers skip what has no gradient.

    Args:
        trained: Parts of all rows of a step; None for all parameters.
        unused: Keys without a gradient, for each row.
        layout: Keys of all parameters, in their order.
    """
    parts = (Trained(slice(0, len(unused)), None),) if trained is None else trained
    found = []
    for part in parts:
        start = part.rows.start
        for left_out, run in groupby(unused[part.rows]):
            stop = start + len(list(run))
            held = layout if part.keys is None else part.keys
            keys = tuple(key for key in held if key not in left_out) if left_out else part.keys
            if keys is None or keys:
                found.append(Trained(slice(start, stop), keys))
            start = stop
    return tuple(found)
