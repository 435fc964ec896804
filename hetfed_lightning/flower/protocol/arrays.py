"""Tensors in NumPy's file format, read without trusting their header.

A header may declare ten million million numbers over no bytes at all, nest ten thousand parentheses, or name a class to
unpickle. NumPy's reader allocates the declared size and parses the nesting. Ours compares the header with the one form
that we write, and its size with the bytes that are there, before it makes anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from flwr.app import Array
from torch import Tensor

from hetfed_lightning.flower.protocol.plain_data import Range
from hetfed_lightning.flower.protocol.untrusted import one_line, shown

STYPE = "numpy.ndarray"
"""The engine's name of the format."""

KNOWN: Mapping[str, torch.dtype] = {
    "<f8": torch.float64,
    "<f4": torch.float32,
    "<f2": torch.float16,
    "<c16": torch.complex128,
    "<c8": torch.complex64,
    "<i8": torch.int64,
    "<i4": torch.int32,
    "<i2": torch.int16,
    "|i1": torch.int8,
    "<u8": torch.uint64,
    "<u4": torch.uint32,
    "<u2": torch.uint16,
    "|u1": torch.uint8,
    "|b1": torch.bool,
}
"""Dtypes that NumPy knows, by its names for them."""

CAST: tuple[torch.dtype, ...] = (
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
)
"""Dtypes that NumPy does not know; they travel as float32, which represents all of their numbers."""

CARRIER = torch.float32

DTYPES: Mapping[str, torch.dtype] = {str(one).removeprefix("torch."): one for one in [*KNOWN.values(), *CAST]}
"""All dtypes that can travel, by torch's names."""

_MOST_HEADER = 1_024
_MOST_DIMENSIONS = 32
_MOST_BYTES = 2**48


class _Holdable:
    """Limit of layouts: sizes that a memory could hold, and dtypes that travel."""

    def fault(self, value: tuple[tuple[int, ...], str]) -> str:
        """Expected layout, if the value is not one; else empty."""
        shape, name = value
        if name not in DTYPES:
            return f"a dtype out of {', '.join(DTYPES)}"
        is_held = _bytes_of(shape, DTYPES[name]) <= _MOST_BYTES and len(shape) <= _MOST_DIMENSIONS
        return "" if is_held else "a shape that a memory could hold"


Layout = Annotated[tuple[tuple[Annotated[int, Range(0, 2**48)], ...], str], _Holdable()]
"""Shape and dtype of a tensor."""

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype>[<|][a-z]\d{1,2})', 'fortran_order': False, "
    rb"'shape': \((?P<shape>(?:\d{1,15}, ?)*(?:\d{1,15})?)\), \} *\n"
)


def travelling_bytes(layout: Layout) -> int:
    """Largest number of bytes of a travelling tensor of a layout."""
    dtype = DTYPES[layout[1]]
    return _bytes_of(layout[0], CARRIER if dtype in CAST else dtype) + _MOST_HEADER + len(_MAGIC) + 2


class ArrayError(ValueError):
    """An array that is not as expected; the message says what was found."""


def array_of(tensor: Tensor) -> Array:
    """Array that carries a tensor, to the bit; as float32 if NumPy does not know its dtype.

    Args:
        tensor: Tensor of any shape, on any device.

    Raises:
        ArrayError: If its dtype cannot travel.
    """
    whole = tensor.detach().cpu().contiguous()
    if whole.dtype in CAST:
        whole = whole.to(CARRIER)
    elif whole.dtype not in KNOWN.values():
        raise ArrayError(f"tensors of {whole.dtype} cannot be sent; expected one of {', '.join(DTYPES)}")
    return Array(whole.numpy())


def tensor_of(array: Array, layout: Layout | None = None, *, cast: str | None = None) -> Tensor:
    """Tensor that an array carries, of the array's shape, in memory of its own, no larger than the array's bytes.

    Args:
        array: Array as it arrived.
        layout: Expected shape and dtype; None takes any.
        cast: Dtype, by torch's name, that the sender declares for before the travel; None for the array's own.

    Raises:
        ArrayError: If the array has another layout, or cannot be read.
    """
    shape, dtype, start = _read_header(array)
    found = (shape, _name(dtype) if cast is None else cast)
    if layout is not None and found != (tuple(layout[0]), layout[1]):
        raise ArrayError(f"is of shape {shape} and {one_line(found[1], 60)}, expected {layout[0]} and {layout[1]}")
    if cast is not None and (dtype != CARRIER or DTYPES.get(cast) not in CAST):
        raise ArrayError(f"is of {_name(dtype)} and said to be of {shown(cast)}")
    count = math.prod(shape)
    if _bytes_of(shape, dtype) > _MOST_BYTES:
        raise ArrayError(f"is of shape {shape}, more than any memory holds")
    there, taken = len(array.data) - start, count * dtype.itemsize
    if taken != there:
        raise ArrayError(f"has {there} bytes of numbers, and {taken} is what its shape {shape} of {_name(dtype)} takes")
    if count == 0:
        whole = torch.empty(shape, dtype=dtype)
    elif dtype == torch.bool:  # Torch would not notice a byte that is neither 0 nor 1.
        whole = torch.from_numpy(np.frombuffer(array.data, np.uint8, offset=start) != 0).reshape(shape)
    else:
        numbers = np.frombuffer(array.data, _NUMPY[dtype], offset=start).copy()
        whole = torch.from_numpy(numbers).reshape(shape)
    return whole if cast is None else whole.to(DTYPES[cast])


def _read_header(array: Array) -> tuple[tuple[int, ...], torch.dtype, int]:
    """Shape and dtype that a header declares, and the position of the first number."""
    data = array.data
    if array.stype != STYPE or not isinstance(data, bytes):
        raise ArrayError(f"is stored as {shown(array.stype)}, expected {STYPE}")
    length = int.from_bytes(data[8:10], "little")
    start = len(_MAGIC) + 2 + length
    if not data.startswith(_MAGIC) or length > _MOST_HEADER or start > len(data):
        raise ArrayError("has no header of NumPy's format")
    match = _HEADER.fullmatch(data, len(_MAGIC) + 2, start)
    dtype = KNOWN.get(match["dtype"].decode()) if match else None
    if match is None or dtype is None:
        raise ArrayError(f"has the header {shown(data[10:start])}, expected numbers with a dtype and a shape")
    shape = tuple(int(one) for one in match["shape"].split(b",") if one.strip())
    if len(shape) > _MOST_DIMENSIONS:
        raise ArrayError(f"has {len(shape)} dimensions, more than {_MOST_DIMENSIONS}")
    return shape, dtype, start


def _bytes_of(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of a tensor; dimensions of 0 count as 1, since the others alone can be more than an index holds."""
    return math.prod(max(one, 1) for one in shape) * dtype.itemsize


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


_NUMPY = {dtype: np.dtype(name) for name, dtype in KNOWN.items()}
