"""Limit of a site's reply to one order, in bytes, from the layouts of shared states."""

from __future__ import annotations

import math
from pathlib import Path

from hetfed_lightning.flower.coordinator.shared_layouts import read_layouts
from hetfed_lightning.flower.engine.limits import MIB, Limits


def reply_bytes(shared: Path) -> int:
    """Bytes that a site may send for one order: four times the largest shared state, and room for all else.

    A state travels once for each of the run's averages, usually two at most. Predictions on the public set and the
    site's description are the rest.

    Args:
        shared: File with the layouts of shared states; without it 4 GiB are allowed.

    Raises:
        ConfigError: If it is damaged.
    """
    layouts = read_layouts(shared)
    if not layouts:
        return Limits.reply
    sizes = [sum(8 * math.prod(shape) for shape, _ in own.values()) for own in layouts.values()]
    return 1024 * MIB + 4 * max(sizes)
