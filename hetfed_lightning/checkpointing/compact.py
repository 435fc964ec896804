"""A federation's state in as few bytes as it has: what several participants hold alike is written once."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hetfed_lightning.lending import place_of
from hetfed_lightning.twins import Twins

AMONG = 4
"""How many groups that average one key apart are recognised."""


def compact(state: dict[str, Any]) -> None:
    """Give every tensor memory of its own, and equal ones of several participants the same.

    After averaging everyone holds the same backbone; ``torch.save`` writes memory that is shared once. Views of a
    fleet's stack would bring the whole stack along.

    Args:
        state: ``state_dict`` of a federation; altered in place.
    """
    twins = Twins(AMONG)
    copies: dict[tuple[Any, ...], Tensor] = {}  # By the place of the original; what many borrow is compared once.
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor):
            continue
        place = place_of(tensor)
        if place not in copies:
            own_key = key.split(".", 2)[-1] if key.startswith("participants.") else key
            twin = twins.of(own_key, tensor)
            copies[place] = tensor.detach().clone() if twin is tensor else copies[place_of(twin)]
        state[key] = copies[place]
