"""Descriptions of participants, each distinct one held in memory once."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hetfed_lightning.methods.messages import Message

SMALL = 1
"""Largest number of elements of tensors that are compared by value; larger ones with values are kept as they are."""


class Interned:
    """Pool of descriptions in which equal ones, and equal entries of different ones, are one object.

    Ten thousand participants of one recipe have one layout; held for each of them it would take more memory than their
    heads.
    """

    def __init__(self) -> None:
        self._entries: dict[Any, Tensor] = {}
        self._wholes: dict[Any, Message] = {}

    def of(self, message: Message) -> Message:
        """Description from the pool, equal to ``message``."""
        found = {key: self._entry(key, tensor) for key, tensor in message.items()}
        return self._wholes.setdefault(tuple((key, id(tensor)) for key, tensor in found.items()), found)

    def _entry(self, key: str, tensor: Tensor) -> Tensor:
        if tensor.device.type == "meta":
            return self._entries.setdefault((key, tensor.shape, tensor.dtype), tensor)
        if tensor.numel() <= SMALL:
            return self._entries.setdefault((key, tensor.shape, tensor.dtype, *tensor.flatten().tolist()), tensor)
        return tensor
