"""Compact states: tensors that several participants have alike are written once."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hetfed_lightning.shared_storage.copy_on_write import place_of
from hetfed_lightning.shared_storage.deduplicate import Twins

AMONG = 4
"""Number of tensors under one key that a tensor is compared with: one for each group that averages by itself."""


def compact(state: dict[str, Any]) -> None:
    """Give every tensor memory of its own, and equal tensors of several participants the same memory.

    After averaging all participants hold the same backbone; ``torch.save`` writes shared memory once. Views of a
    fleet's stack would bring the whole stack along.

    Args:
        state: ``state_dict`` of a federation, tensors of any shape by key; changed in place.
    """
    twins = Twins(AMONG)
    copies: dict[tuple[Any, ...], Tensor] = {}  # By the place of the original; a lent tensor is compared once.
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor):
            continue
        place = place_of(tensor)
        if place not in copies:
            own_key = key.split(".", 2)[-1] if key.startswith("participants.") else key
            twin = twins.of(own_key, tensor)
            copies[place] = tensor.detach().clone() if twin is tensor else copies[place_of(twin)]
        state[key] = copies[place]
