"""Results of a method's hooks, held to the protocol, and the hook's name beside every error in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hetfed_lightning.methods.messages import MessageError


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Context that notes beside an error which hook of which method raised it, and for whom.

    Args:
        where: The hook, such as ``"Round 3: participant 'a': Prototypes.send"``.
    """
    try:
        yield
    except MessageError:
        raise
    except Exception as error:
        error.add_note(f"in {where}")
        raise


def tensors_by_key(found: Any, where: str) -> dict[str, Tensor]:
    """Result of a hook as a dictionary, its tensors as they are.

    Args:
        found: What the hook returned.
        where: The hook, for messages.

    Raises:
        MessageError: If it is no mapping of names to dense tensors; says what it is.
    """
    if not isinstance(found, Mapping):
        remedy = "Return a dictionary of tensors, such as {'sum': tensor}"
        remedy += "; {} for nothing." if found is None else "."
        raise MessageError(f"{where}: expected tensors by key, got {_kind(found)}. {remedy}")
    for key, tensor in found.items():
        if not isinstance(key, str):
            raise MessageError(f"{where}: expected text as a key, got {key!r}. Write {str(key)!r}.")
        if not isinstance(tensor, Tensor):
            raise MessageError(f"{where}: expected a tensor at {key}, got {_kind(tensor)}.{_remedy(tensor)}")
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise MessageError(f"{where}: expected a dense tensor at {key}, got {_kind(tensor)}. Use .to_dense().")
    return dict(found)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor) and (value.layout is not torch.strided or value.is_quantized):
        return "a quantised one" if value.is_quantized else f"one of layout {value.layout}"
    return value.__name__ if isinstance(value, type) else "nothing (None)" if value is None else type(value).__name__


def _remedy(value: Any) -> str:
    if isinstance(value, int | float):
        return f" Write torch.tensor({value!r})."
    if isinstance(value, Mapping):
        return " Keys of one level alone travel: join them, as 'outer/inner'."
    return " torch.as_tensor makes one of an array." if type(value).__module__ == "numpy" else ""


def keep_own(memory: MutableMapping[str, Tensor], others: Mapping[str, Tensor], where: str) -> None:
    """Replace tensors of a participant's memory that are also somebody else's by copies.

    A parameter that is remembered as it is would change with every step, in one process alone.

    Args:
        memory: Memory of a participant; changed in place.
        others: Tensors that others write to: the participant's own, and the group's result.
        where: The hook that wrote it, for messages.

    Raises:
        MessageError: If it holds anything but tensors by name.
    """
    held = tensors_by_key(memory, f"{where}: context.memory")
    theirs = {one.untyped_storage().data_ptr() for one in others.values() if one.numel()}
    for key, tensor in held.items():
        if tensor.numel() and tensor.untyped_storage().data_ptr() in theirs:
            memory[key] = tensor.detach().clone()
        elif tensor.requires_grad:
            memory[key] = tensor.detach()


@contextmanager
def read_only(tensors: Mapping[str, Tensor], what: str, where: str) -> Iterator[None]:
    """Context that refuses writes to tensors which others read as well.

    Args:
        tensors: Tensors by key.
        what: What they are, such as ``"context.received"``.
        where: The hook that may read them, for messages.

    Raises:
        MessageError: At its end, if one was written to; names it.
    """
    before = {key: (one, one._version) for key, one in tensors.items()}
    yield
    for key, (tensor, version) in before.items():
        if tensor._version != version:
            raise MessageError(
                f"{where}: it writes to {key} of {what}, one copy for the whole group. Write to a .clone() of it."
            )
