"""Batches of data sets and collate functions: a pair of inputs and target, or inputs alone."""

from __future__ import annotations

from typing import Any

__all__ = ["split_batch"]


def split_batch(batch: Any) -> tuple[Any, Any]:
    """Inputs and target of a batch, of any types; the target is None for a batch of inputs alone."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        return batch[0], None
    return batch, None
