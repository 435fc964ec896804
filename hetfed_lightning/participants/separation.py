"""Separate objects for every participant: stateful modules given to several are copied, or refused by name.

Transforms and tasks are fitted to a participant's own data, and modules hold a training mode. Two parameters may also
lie in one memory, such as one array used for several initial weights. Functions without state may be common to all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from copy import deepcopy
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hetfed_lightning.participants.compilation import plain_name
from hetfed_lightning.participants.inseparable import has_memory

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant

log = logging.getLogger(__name__)

LEARNS = ("transform", "target_transform", "task")
"""Attributes of a participant that may be fitted to its own data; copied if several participants have one object."""


def keep_apart(participants: Mapping[str, Participant]) -> None:
    """Give every participant objects and memory of its own, except for storage that is shared on purpose.

    Args:
        participants: Participants by name; the first owner of an object keeps it.

    Raises:
        ValueError: If an object with state cannot be copied, or is part of a network; names both participants.
    """
    owners: dict[int, str] = {}
    copied: dict[str, list[str]] = {}
    for name, participant in participants.items():
        for what in LEARNS:
            value = getattr(participant, what)
            if any(owners.get(id(part), name) != name for part in _parts(value)):
                setattr(participant, what, _copy(value, f"{what} of {name!r}"))
                copied.setdefault(f"{what} ({_kind(value)})", []).append(name)
        for where, module in list(participant.named_modules()):
            owner = owners.get(id(module), name)
            if owner != name and not where:
                raise ValueError(f"participants: {owner!r} and {name!r} are one object; make one for each.")
            if owner != name:
                _replace(participant, where, module, owner, name)
        owners |= {id(part): name for what in LEARNS for part in _parts(getattr(participant, what))}
        owners |= {id(module): name for module in participant.modules()}
    for what, names in copied.items():
        log.info("%s was given to several participants; %d of them train with a copy of it.", what, len(names))
    _part_memory(participants)


def _parts(value: Any) -> Iterator[Any]:
    """Parts of a transform or a task that one participant owns: the modules in it, or the object of a bound method."""
    if value is None or isinstance(value, (type, FunctionType, BuiltinFunctionType)):
        return
    if isinstance(value, nn.Module):
        yield from value.modules()
    else:
        yield getattr(value, "__self__", value)


def _kind(value: Any) -> str:
    return type(getattr(value, "__self__", value)).__name__


def _copy(value: Any, what: str) -> Any:
    try:
        return deepcopy(value)
    except Exception as error:
        raise ValueError(
            f"participants: {what} ({_kind(value)}) was given to another participant too and cannot be copied "
            f"({error}). Make one for each."
        ) from error


def _replace(participant: Participant, where: str, module: nn.Module, owner: str, name: str) -> None:
    """Put a copy in the place of a module that another participant has, where it has nothing to learn."""
    if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
        raise ValueError(
            f"participants: {owner!r} and {name!r} hold the same {where} ({type(module).__name__}); give each modules "
            "of its own (copy.deepcopy makes them). What they share is averaged, not one object."
        )
    place, _, attribute = where.rpartition(".")
    parent = participant.get_submodule(place)
    if parent._modules.get(attribute) is module:  # Else it was replaced along with what holds it.
        parent._modules[attribute] = _copy(module, f"{where} of {name!r}")


def _part_memory(participants: Mapping[str, Participant]) -> None:
    """Move tensors out of memory that another participant's lie in; loans are meant to be common."""
    owners: dict[int, str] = {}
    for name, participant in participants.items():
        for where, module in participant.named_modules():
            for kind in (module._parameters, module._buffers):
                for attribute, tensor in list(kind.items()):
                    key = plain_name(f"{where}.{attribute}" if where else attribute)
                    if tensor is None or not has_memory(tensor) or participant.borrows(key) is not None:
                        continue
                    own = tensor
                    if owners.setdefault(id(tensor), name) != name:  # A buffer: one parameter of two is refused before.
                        own = kind[attribute] = tensor.detach().clone()
                        owners[id(own)] = name
                    elif owners.get(-_place(tensor), name) != name:
                        tensor.data = tensor.detach().clone()
                    owners[-_place(own)] = name


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
