"""Refusal, on saving, of states that could not be read back; the error names the key and its owner.

Checkpoints are read as weights and plain data alone, since anything else may run code. A NumPy number or a date that a
callback or a participant saves would be found only when the run is resumed, and the value is gone by then.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hetfed_lightning.checkpointing.form import form_problem

_READABLE = frozenset({Tensor, nn.Parameter, str, float, bool, type(None)})
"""Types whose values can always be read back; those of subclasses may bring code along."""

_LONGEST = 1 << 2000
"""Limit of whole numbers that can always be read back; torch reads no more than 255 bytes."""

_MAPPINGS = (dict, OrderedDict)

_REMEDIES: tuple[tuple[Any, str], ...] = (
    (np.generic, "value.item()"),
    (np.ndarray, "torch.from_numpy(value) or value.tolist()"),
    ((date, time), "value.isoformat()"),
    (PurePath, "str(value)"),
    (Enum, "value.value"),
)
"""Form in which to save a value instead, by its type."""


class UnreadableStateError(ValueError):
    """A state with which a checkpoint could not be read back; the message names its key and its owner."""


def check_readable(checkpoint: Mapping[str, Any]) -> None:
    """Refuse a federation's checkpoint that could not be read back.

    Args:
        checkpoint: Checkpoint as ``on_save_checkpoint`` is about to return it.

    Raises:
        UnreadableStateError: If it could not be read back; names the callback or participant, the key, the value and
            the form in which to save it.
    """
    if (doubtful := _doubtful(checkpoint)) and _fault(doubtful) is not None:
        keys, value = _culprit(checkpoint, ())
        fault = _fault(value)
        owner, below = _owner(checkpoint, keys)
        where = ".".join(map(str, below)) or "itself"
        instead = next((how for kind, how in _REMEDIES if isinstance(value, kind)), None)
        why = "" if instead is not None or fault is None else f" ({str(fault).splitlines()[0][:100]})"
        raise UnreadableStateError(
            f"{owner} would save {value!r:.80} of {type(value).__module__}.{type(value).__qualname__} under {where}, "
            f"with which the checkpoint could not be read again{why}: numbers, text, lists, dictionaries and tensors "
            f"can. Save {instead or 'those'} instead."
        )
    if (problem := form_problem(checkpoint)) is not None:
        raise UnreadableStateError(f"The checkpoint could not be read again: {problem}.")


def _doubtful(value: Any) -> list[Any]:
    """Keys and values inside of a value that only reading back can tell of, in their order."""
    found: list[Any] = []
    _add_doubtful(value, found)
    return found


def _add_doubtful(value: Any, found: list[Any]) -> None:
    kind = type(value)
    if kind in _READABLE:
        return
    if kind in _MAPPINGS:
        for key, inside in value.items():
            if type(key) not in _READABLE:
                _add_doubtful(key, found)
            if type(inside) not in _READABLE:  # Asked here too: a call for each of thousands of values takes longer.
                _add_doubtful(inside, found)
    elif kind is list or kind is tuple:
        for inside in value:
            if type(inside) not in _READABLE:
                _add_doubtful(inside, found)
    elif kind is not int or not -_LONGEST < value < _LONGEST:
        found.append(value)


def _fault(value: Any) -> Exception | None:
    """Error on reading a value back; None if it can be read."""
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:  # noqa: BLE001 - Pickling calls what the value brings along, which raises what it likes.
        return error
    return None


def _culprit(value: Any, keys: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
    """The innermost part that cannot be read back, and the keys that lead to it."""
    for key, inside in _inside(value):
        if _fault(key) is not None:
            return keys, key
        if _fault(_doubtful(inside)) is not None:
            return _culprit(inside, (*keys, key))
    return keys, value


def _inside(value: Any) -> Iterator[tuple[Any, Any]]:
    if type(value) in _MAPPINGS:
        yield from value.items()
    elif type(value) is list or type(value) is tuple:
        yield from enumerate(value)


def _owner(checkpoint: Mapping[str, Any], keys: tuple[Any, ...]) -> tuple[str, Sequence[Any]]:
    """Owner of a state in words, and the keys below it."""
    federation = checkpoint.get("federation", {})
    match keys:
        case ("callbacks", name, *below):
            return f"The state_dict of callback {name}", below
        case ("federation", "own", name, *below):
            return f"on_save_checkpoint of participant {name!r}", below
        case ("state_dict", key, *below):
            named = str(key).split(".")
            whose = f"participant {named[1]!r}" if named[0] == "participants" else named[0]
            return f"The state_dict of {whose}", [key, *below]
        case ("optimizer_states", place, *below):
            return f"The optimizer of participant {_at(federation.get('optimizers', {}), place)!r}", below
        case ("lr_schedulers", place, *below):
            return f"The scheduler of participant {_at(federation.get('schedulers', {}), place)!r}", below
        case _:
            return "The checkpoint", keys


def _at(counts: Mapping[str, int], place: int) -> str:
    """Name of the participant whose optimizer is at a place; ``counts`` has the number of optimizers of each."""
    names = [name for name, count in counts.items() for _ in range(count)]
    return names[place] if place < len(names) else "?"
