"""Words of a site on its methods before training: descriptions and the layouts of its messages, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hetfed_lightning.flower.protocol.arrays import DTYPES, Layout
from hetfed_lightning.methods.participant_side import ParticipantSide

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.methods.messages import Message
    from hetfed_lightning.methods.method import Method

Numbers = tuple[float | int | bool, ...]
"""Elements of a tensor in their order."""


class MethodWordsError(ValueError):
    """Tensors of a method that cannot travel; the message names the method, the key and what to change."""


def layouts(state: Mapping[str, Tensor]) -> dict[str, Layout]:
    """Shape and dtype of every tensor, by key."""
    return {key: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for key, tensor in state.items()}


def numbers_of(message: Message) -> dict[str, Numbers]:
    """Elements of the tensors that have any, by key; those on the device ``"meta"`` are layouts alone."""
    real = {key: one.flatten() for key, one in message.items() if one.device.type != "meta"}
    return {key: tuple((one.double() if one.is_floating_point() else one).tolist()) for key, one in real.items()}


def described(method: Method, federation: FederationView, name: str) -> Message:
    """Description of a participant for one method.

    Args:
        method: Whose ``describe`` is called.
        federation: In a fit that has begun.
        name: The participant.

    Raises:
        MethodWordsError: If it has tensors of a dtype that cannot travel, or numbers that are not finite.
    """
    found = ParticipantSide(method, lambda _: {}).describe(federation, name)
    _check_dtypes(f"{method.title}.describe", found)
    for key, one in found.items():
        if one.is_complex() and one.device.type != "meta":
            raise MethodWordsError(f"{method.title}.describe: {key} is complex; give torch.view_as_real of it.")
        if one.device.type != "meta" and not bool(torch.isfinite(one).all()):
            raise MethodWordsError(f"{method.title}.describe: {key} is not finite.")
    return found


def message_layout(method: Method, federation: FederationView, name: str) -> dict[str, Layout]:
    """Layout of the messages of a participant, found by a rehearsal of ``send``; empty without exchanges.

    Args:
        method: Whose ``send`` is called; what it returns and remembers is dropped.
        federation: In a fit that has begun.
        name: The participant.

    Raises:
        MethodWordsError: If a tensor is of a dtype that cannot travel.
    """
    if not method.exchanges:
        return {}
    found = ParticipantSide(method, lambda _: {}).layout(federation, name)
    _check_dtypes(f"{method.title}.send", found)
    return layouts(found)


def message_of(layout: Mapping[str, Layout], numbers: Mapping[str, Sequence[float]]) -> dict[str, Tensor]:
    """Tensors of a description as they were before they travelled.

    Args:
        layout: Shape and dtype by key.
        numbers: Elements by key; keys without are on the device ``"meta"``.
    """
    found = {}
    for key, (shape, dtype) in layout.items():
        if key in numbers:
            wide = torch.float64 if DTYPES[dtype].is_floating_point else DTYPES[dtype]
            found[key] = torch.tensor(numbers[key], dtype=wide).to(DTYPES[dtype]).reshape(shape)
        else:
            found[key] = torch.empty(shape, dtype=DTYPES[dtype], device="meta")
    return found


def fault_of_numbers(layout: Mapping[str, Layout], numbers: Mapping[str, Numbers]) -> str:
    """First reason why elements do not make tensors of a layout; empty if they do."""
    for key, found in numbers.items():
        if key not in layout:
            return f"tells numbers of {key!r}, and no layout"
        shape, name = layout[key]
        dtype = DTYPES[name]
        kind: type = bool if dtype == torch.bool else float if dtype.is_floating_point else int
        if len(found) != math.prod(shape) or dtype.is_complex or any(type(one) is not kind for one in found):
            return f"tells {len(found)} numbers of {key!r}, which is of shape {shape} and {name}"
        limits = torch.finfo(dtype) if kind is float else torch.iinfo(dtype) if kind is int else None
        if limits is not None and not all(limits.min <= one <= limits.max for one in found):
            return f"tells numbers of {key!r} that {name} does not hold"
    return ""


def _check_dtypes(what: str, message: Message) -> None:
    for key, one in message.items():
        if one.dtype not in DTYPES.values():
            raise MethodWordsError(
                f"{what}: {key} is of {one.dtype}, which cannot travel; use one of {', '.join(DTYPES)}."
            )
