"""Nested values taken apart into what is small (sent as an object) and tensors (sent as one run of bytes).

A tensor is copied on the way, never sent with its storage: the storage of a view holds its neighbours too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes; where a tensor may begin, so that it can be read in place in any dtype."""


@dataclass(frozen=True)
class _Slot:
    """Where a tensor lies among the bytes."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count * self.dtype.itemsize


@dataclass(frozen=True)
class Packed:
    """A value taken apart.

    Attributes:
        skeleton: The value with a note in the place of every tensor.
        length: Bytes of all tensors, gaps included.
        tensors: With the place of each.
    """

    skeleton: Any
    length: int
    tensors: list[tuple[_Slot, Tensor]]

    def bytes(self) -> Tensor:
        """The tensors' content, shape ``(length,)``, uint8, on the CPU."""
        flat = torch.zeros(self.length, dtype=torch.uint8)
        for slot, tensor in self.tensors:
            if slot.size:
                flat[slot.start : slot.start + slot.size].view(slot.dtype).view(slot.shape).copy_(tensor.detach())
        return flat


def pack(value: Any) -> Packed:
    """Take dictionaries, lists and tuples of tensors and plain data apart."""
    tensors: list[tuple[_Slot, Tensor]] = []
    length = 0

    def visit(part: Any) -> Any:
        nonlocal length
        if isinstance(part, Tensor):
            slot = _Slot(length, tuple(part.shape), part.dtype)
            tensors.append((slot, part))
            length += -(-slot.size // ALIGNMENT) * ALIGNMENT
            return slot
        return _rebuilt(part, visit)

    skeleton = visit(value)
    return Packed(skeleton, length, tensors)


def unpack(skeleton: Any, flat: Tensor) -> Any:
    """Put a value together again.

    Args:
        skeleton: As :func:`pack` made it.
        flat: The bytes.

    Returns:
        The value; its tensors lie in ``flat``, so clone what is to be kept or saved.
    """

    def visit(part: Any) -> Any:
        if isinstance(part, _Slot):
            if not part.size:
                return torch.empty(part.shape, dtype=part.dtype)
            return flat[part.start : part.start + part.size].view(part.dtype).view(part.shape)
        return _rebuilt(part, visit)

    return visit(skeleton)


def cloned(value: Any) -> Any:
    """A value whose tensors are copies, each with a storage of its own."""
    return value.detach().clone() if isinstance(value, Tensor) else _rebuilt(value, cloned)


def _rebuilt(part: Any, visit: Any) -> Any:
    """Plain containers with every element visited; others as they are."""
    if isinstance(part, Mapping):
        return {key: visit(element) for key, element in part.items()}
    if type(part) in {list, tuple}:
        return type(part)(visit(element) for element in part)
    return part
