"""Snapshot of a member's network, settings and optimizer, to find changes made since.

A fleet computes with one copy of the network and with rows of a stack. A change in a member's own modules between two
steps (a mode, a hook, a frozen weight, the rate of a dropout) would silently have no effect there, so it is looked for
before the fleet relies on the copy. Looking is cheap, since values are compared by functions written in C; only the
first difference is put into words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter, call, itemgetter
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from hetfed_lightning.fleets.compatibility import OWN_STEP
from hetfed_lightning.fleets.network import roots_of
from hetfed_lightning.participants.torch_hooks import (
    MODULE_HOOKS,
    accumulation_hooks_of,
    has_hooks,
    tensor_has_hooks,
    tensor_hooks_of,
)

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant

Modes = Literal["training", "evaluation"]
"""Modes that modules ought to be in: the ones that were found in training, or evaluation mode for all."""

_CONTENTS = ("_parameters", "_buffers", "_modules")
SETTINGS = ("task", "transform", "target_transform", "accumulate_grad_batches", "_automatic_optimization", "privacy")
"""Attributes of a participant that a fleet's step depends on."""

OWN = (*OWN_STEP, "on_after_batch_transfer", "transformed")
"""Methods that a fleet's step does not call; a participant may have been given one as an attribute of its own."""

_trains: Callable[[Any], bool] = attrgetter("requires_grad")


class Snapshot:
    """A participant's network and settings as a fleet found them.

    Args:
        participant: Participant without an obstacle to joining fleets, in training mode.

    Attributes:
        participant: The participant.
        modules: All modules of its backbone, head and task, and those of methods.
        states: Attributes of each module, as its ``__dict__``.
        sizes: Number of attributes of each.
        modes: True for each module in training mode.
        plain: The same dictionaries, followed by those of configurations that are plain attributes.
        keys: Keys of the values that matter, for each dictionary in ``plain``.
        getters: Function that takes these values out of each dictionary.
        values: These values.
        contents: Dictionaries of parameters, buffers and submodules.
        contained: Copies of these dictionaries.
        hooks: Dictionaries of hooks, all of them empty.
        parameters: All parameters.
        trained: True for each parameter that requires a gradient.
        settings: Attributes among ``SETTINGS`` that are no modules.
        reference: Buffers and frozen weights that its fleet computes with, by key.
    """

    def __init__(self, participant: Participant) -> None:
        self.participant = participant
        roots = roots_of(participant)
        inside = [module for part in (*roots.values(), participant.task) for module in part.modules()]
        everything = [participant, *inside]
        self.modules = inside
        self._classes = list(map(type, everything))
        self.states = [vars(module) for module in inside]
        self.sizes = list(map(len, self.states))
        self.modes = [module.training for module in inside]
        nested = [vars(value) for state in self.states for value in _plain(state).values() if _has_parts(value)]
        self.plain = [*self.states, *nested]
        self.keys = [*(list(_plain(state)) for state in self.states), *map(list, nested)]
        self.getters = [_getter(keys) for keys in self.keys]
        self.values = [tuple(map(_copy, getter(state))) for getter, state in zip(self.getters, self.plain, strict=True)]
        # Torch never replaces these dictionaries of its modules.
        self.contents = [vars(module)[kind] for module in everything for kind in _CONTENTS]
        self.contained = [dict(content) for content in self.contents]
        self.hooks = [vars(module)[kind] for module in everything for kind in MODULE_HOOKS]
        self.parameters = list(participant.parameters())
        self.trained = list(map(_trains, self.parameters))
        self._still = still_tensors(roots, participant.task)
        self._places = self._places_of_still()
        self.reference: Mapping[str, Tensor] = {}
        # Those that are modules are in `contents`.
        self.settings = {name: vars(participant)[name] for name in SETTINGS if name in vars(participant)}

    @property
    def holds_its_parameters(self) -> bool:
        """True if the modules hold the same parameter objects in the same places as when they were found."""
        try:
            return self.contents == self.contained
        except RuntimeError:  # Another parameter in the place of one is compared by value.
            return False

    def difference(self, modes: Modes = "training") -> str | None:
        """First change since the snapshot, as a clause that follows "since"; None without one.

        Args:
            modes: Modes that the modules ought to be in.
        """
        try:
            as_found = self._is_as_found(modes)
        except Exception:  # noqa: BLE001 - what cannot be compared, such as an array, has been replaced
            as_found = False
        return None if as_found else next(self._differences(modes), "one of its modules has been changed")

    def _is_as_found(self, modes: Modes) -> bool:
        own = vars(self.participant)
        return (
            list(map(len, self.states)) == self.sizes
            and list(map(call, self.getters, self.plain)) == self.values
            and self.contents == self.contained
            and not any(self.hooks)
            and list(map(_trains, self.parameters)) == self.trained
            and not any(map(tensor_hooks_of, self.parameters))
            and not any(map(accumulation_hooks_of, self.parameters))
            and self._modes_are(modes)
            and self.stands_still()
            and list(map(type, [self.participant, *self.modules])) == self._classes
            and {name: own[name] for name in SETTINGS if name in own} == self.settings
            and not any(map(own.__contains__, OWN))
        )

    def _modes_are(self, modes: Modes) -> bool:
        found = list(map(_training, self.states))
        return found == self.modes if modes == "training" else not any(found)

    @property
    def has_still_tensors(self) -> bool:
        """True if there are buffers or frozen weights."""
        return bool(self._still)

    def stands_still(self) -> bool:
        """True if buffers and frozen weights have their values; writing equal ones, as an average may, is no change."""
        if not self.reference:
            return self._places_of_still() == self._places
        # By value: writing to `tensor.data` counts in no version.
        return all(_equal(one, self.reference.get(key)) for key, one in self._still.items())

    def _places_of_still(self) -> list[tuple[int, int]]:
        return [(tensor.data_ptr(), _version(tensor)) for tensor in self._still.values()]

    # Changes in words

    def _differences(self, modes: Modes) -> Iterator[str]:
        own = vars(self.participant)
        yield from (f"its {name} is its own" for name in OWN if name in own)
        for name in SETTINGS:
            if not _same(own.get(name), self.settings.get(name)):
                yield f"its {name.removeprefix('_')} has been changed"
        yield from self._of_parameters()
        names = {id(module): name for name, module in self.participant.named_modules()}
        for place, module in enumerate(self.modules):
            label = f"{names.get(id(module), 'its task')} ({self._classes[place + 1].__name__})"
            yield from self._of_module(place, module, label, modes)
        if has_hooks(self.participant):
            yield "it has hooks"
        for content, was in zip(self.contents, self.contained, strict=True):
            yield from (
                f"{key} has been replaced" for key in content.keys() | was if content.get(key) is not was.get(key)
            )
        if not self.stands_still():
            yield "a buffer or a frozen weight has been changed"

    def _of_module(self, place: int, module: nn.Module, label: str, modes: Modes) -> Iterator[str]:
        if module.training != (self.modes[place] and modes == "training"):
            yield f"{label} is in {'training' if module.training else 'evaluation'} mode"
        if has_hooks(module):
            yield f"{label} has hooks"
        keys, found = self.keys[place], self.states[place]
        for key, was in zip(keys, self.values[place], strict=True):
            if not _same(found.get(key), was):
                yield f"{key} of {label} has been changed"
        if len(found) != self.sizes[place] or type(module) is not self._classes[place + 1]:
            yield f"{label} has attributes or a class of its own"

    def _of_parameters(self) -> Iterator[str]:
        names = {id(parameter): name for name, parameter in self.participant.named_parameters()}
        for parameter, trained in zip(self.parameters, self.trained, strict=True):
            name = names.get(id(parameter), "a parameter")
            if parameter.requires_grad != trained:
                yield f"{name} {'is to be trained' if parameter.requires_grad else 'has been frozen'}"
            if tensor_has_hooks(parameter):
                yield f"{name} has hooks"


def still_tensors(roots: Mapping[str, nn.Module], task: nn.Module) -> dict[str, Tensor]:
    """Tensors that a network and its loss compute with but do not train, by key and of any shape.

    These are buffers, frozen weights and tensors in plain attributes.

    Args:
        roots: Modules of the network, by the first part of their keys.
        task: Task, a module with the loss.
    """
    found: dict[str, Tensor] = {}
    for part, root in (*roots.items(), ("task", task)):
        for name, module in root.named_modules(prefix=part):
            own = chain(
                module.named_parameters(recurse=False), module.named_buffers(recurse=False), vars(module).items()
            )
            found |= {
                f"{name}.{key}": value for key, value in own if isinstance(value, Tensor) and not value.requires_grad
            }
    return found


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a module that are neither torch's own nor its mode."""
    return {key: value for key, value in state.items() if not key.startswith("_") and key != "training"}


def _has_parts(value: Any) -> bool:
    """True if a plain attribute is an object with attributes of its own, such as a configuration."""
    return hasattr(value, "__dict__") and not isinstance(value, (type, FunctionType, Tensor, nn.Module)) \
        and not callable(value)  # fmt: skip


def _getter(keys: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Function from a dictionary to a tuple of its values under ``keys``, for one key or none too."""
    if len(keys) > 1:
        return itemgetter(*keys)
    return (lambda state: (state[keys[0]],)) if keys else _nothing


def _copy(value: Any) -> Any:
    """Copy of a collection, which may be changed in place; any other value itself."""
    return value.copy() if type(value) in {list, dict, set} else value


def _nothing(state: Any) -> tuple[()]:
    del state
    return ()


_training: Callable[[Any], bool] = itemgetter("training")


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _equal(one: Tensor, other: Tensor | None) -> bool:
    if other is None or torch.equal(one, other):
        return other is not None
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _same(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:  # noqa: BLE001 - what cannot be compared is not the same
        return False
