"""Neighbouring rows of a stack that train the same parameters in a step, as plans ask."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trained:
    """Neighbouring rows of a stack that train the same parameters in a step.

    Attributes:
        rows: The rows.
        keys: Keys of the parameters, in the order of the layout; None for all.
    """

    rows: slice
    keys: tuple[str, ...] | None
