"""Nested values split into a small skeleton, sent as an object, and tensors, sent as one run of bytes.

A tensor is copied on the way, never sent with its storage: the storage of a view holds its neighbours too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes to a multiple of which every tensor's start is aligned, so that it can be read in place in any dtype."""


@dataclass(frozen=True)
class _Slot:
    """Place of a tensor among the bytes, with its shape and dtype."""

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
    """A value split into a skeleton and tensors.

    Attributes:
        skeleton: The value with a slot in place of every tensor.
        length: Bytes of all tensors, gaps included.
        tensors: Pairs of a slot and its tensor, of the slot's shape.
    """

    skeleton: Any
    length: int
    tensors: list[tuple[_Slot, Tensor]]

    def bytes(self) -> Tensor:
        """Content of the tensors, shape ``(length,)``, uint8, on the CPU."""
        flat = torch.zeros(self.length, dtype=torch.uint8)
        for slot, tensor in self.tensors:
            if slot.size:
                flat[slot.start : slot.start + slot.size].view(slot.dtype).view(slot.shape).copy_(tensor.detach())
        return flat


def pack(value: Any) -> Packed:
    """Dictionaries, lists and tuples of tensors and plain data, split into skeleton and tensors."""
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
    """The value of a skeleton and its bytes.

    Args:
        skeleton: Skeleton as :func:`pack` made it.
        flat: The bytes, shape ``(length,)``, uint8.

    Returns:
        The value. Its tensors are views of ``flat``, so clone those that are to be kept or saved.
    """

    def visit(part: Any) -> Any:
        if isinstance(part, _Slot):
            if not part.size:
                return torch.empty(part.shape, dtype=part.dtype)
            return flat[part.start : part.start + part.size].view(part.dtype).view(part.shape)
        return _rebuilt(part, visit)

    return visit(skeleton)


def cloned(value: Any) -> Any:
    """Copy of a nested value; each tensor, of any shape, has a storage of its own."""
    return value.detach().clone() if isinstance(value, Tensor) else _rebuilt(value, cloned)


def _rebuilt(part: Any, visit: Any) -> Any:
    """Copy of a plain container with ``visit`` applied to every element; any other value itself."""
    if isinstance(part, Mapping):
        return {key: visit(element) for key, element in part.items()}
    if type(part) in {list, tuple}:
        return type(part)(visit(element) for element in part)
    return part
