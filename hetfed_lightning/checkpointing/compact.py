"""A federation's state in as few bytes as it has: what several participants hold alike is written once."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from hetfed_lightning.lending import place_of

KEPT = 4
"""How many different tensors of one key are remembered, as those of several groups that average apart."""


def compact(state: dict[str, Any]) -> None:
    """Give every tensor memory of its own, and equal ones of several participants the same.

    After averaging everyone holds the same backbone; ``torch.save`` writes memory that is shared once. Views of a
    fleet's stack would bring the whole stack along.

    Args:
        state: ``state_dict`` of a federation; altered in place.
    """
    known: dict[str, list[Tensor]] = defaultdict(list)
    lent: dict[tuple[Any, ...], Tensor] = {}  # What many borrow is compared once.
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor):
            continue
        place = place_of(tensor)
        if place not in lent:
            same = known[key.split(".", 2)[-1] if key.startswith("participants.") else key]
            twin = next((one for one in same if _equal(one, tensor)), None)
            if twin is None:
                twin = tensor.detach().clone()
                if len(same) < KEPT:
                    same.append(twin)
            lent[place] = twin
        state[key] = lent[place]


def _equal(one: Tensor, other: Tensor) -> bool:
    return (one.dtype, one.device, one.shape) == (other.dtype, other.device, other.shape) and torch.equal(one, other)
