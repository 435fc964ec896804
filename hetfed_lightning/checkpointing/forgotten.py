"""Warning of callbacks' tensors that no checkpoint holds, if they have changed since a fit began.

A callback without ``state_dict`` begins anew when a run is resumed, and nothing tells its user. Constants and networks
that never change are set up again anyway, so only changes since the beginning count.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import lightning as L
from torch import Tensor, nn
from torch.optim import Optimizer

log = logging.getLogger(__name__)

RUNNING = ("carrier", "_saved")
"""Attributes of methods whose values are their state in checkpoints."""

DEEPEST = 4
"""Depth to which nested containers are searched."""

Held = Mapping[str, tuple[weakref.ref[Tensor], int]]
"""Tensors by attribute, each as a weak reference with its version."""


class ForgottenState:
    """Search, at each checkpoint, of a run's callbacks for changed tensors that no checkpoint holds.

    Args:
        base: Class of methods, whose own state is never empty: of a user's subclass it is saved alone.
    """

    def __init__(self, base: type) -> None:
        self._base = base
        self._before: dict[L.Callback, Held] = {}
        self._values: dict[L.Callback, dict[str, Any]] = {}
        self._told: set[L.Callback] = set()

    def begin(self, callbacks: Iterable[L.Callback]) -> None:
        """Record the callbacks' tensors before the first round."""
        self._told = set()
        self._before = {
            one: {path: (weakref.ref(tensor), tensor._version) for path, tensor in _held(one)} for one in callbacks
        }
        self._values = {one: _plain_values(one, self._base) for one in self._before if _is_a_users(one, self._base)}

    def look(self, module: nn.Module) -> None:
        """Warn of callbacks with changed tensors that are saved nowhere, once for each, by name.

        Args:
            module: The federation; its own tensors are saved, so callbacks may hold them.
        """
        suspects = [one for one in self._before if one not in self._told and not self._saves_something(one)]
        own = {id(tensor) for tensor in (*module.parameters(), *module.buffers())} if suspects else set()
        for callback in suspects:
            before = self._before[callback]
            changed = [
                path
                for path, tensor in _held(callback)
                if id(tensor) not in own and not _is_as_before(tensor, before.get(path))
            ]
            if callback in self._values:
                self._look_at_method(callback, changed)
            elif changed:
                self._told.add(callback)
                attributes = list(dict.fromkeys(path.split(".")[0].split("[")[0] for path in changed))
                log.warning(
                    "%s has changed tensors in %s, and saves nothing of them: a run resumed from this checkpoint "
                    "begins with others, and may end in another result. Define state_dict() and load_state_dict(state) "
                    "of the callback. Where they are made anew in every round, set them to None in on_round_end.",
                    type(callback).__name__, ", ".join(attributes),
                )  # fmt: skip

    def _saves_something(self, callback: L.Callback) -> bool:
        kind = type(callback)
        if kind.on_save_checkpoint is not L.Callback.on_save_checkpoint:
            return True
        if callback in self._values:
            return False
        return kind.__module__.startswith("hetfed_lightning.") or bool(callback.state_dict())

    def _look_at_method(self, method: L.Callback, tensors: Sequence[str]) -> None:
        """Warn of a method's attributes that have changed, or of its own state beside which memory is not saved."""
        kind = type(method)
        if kind.state_dict is not vars(self._base)["state_dict"]:
            self._told.add(method)
            if "server" not in method.state_dict():
                log.warning(
                    "%s.state_dict leaves out what super().state_dict() returns: a run resumed from this checkpoint "
                    "begins without results and memory of the method. Return super().state_dict() with keys of your "
                    "own, and call super().load_state_dict(state).",
                    kind.__name__,
                )  # fmt: skip
            return
        before, now = self._values[method], _plain_values(method, self._base)
        changed = [name for name in now if name not in before or before[name] != now[name]]
        attributes = list(dict.fromkeys([*(path.split(".")[0].split("[")[0] for path in tensors), *changed]))
        if attributes:
            self._told.add(method)
            log.warning(
                "%s has changed values in %s, and no checkpoint holds them: a run resumed from this one begins with "
                "others, and may end in another result. Keep a participant's tensors in context.memory, the server's "
                "values in server.tensors, or define state_dict() and load_state_dict(state), both with super()'s.",
                kind.__name__, ", ".join(attributes),
            )  # fmt: skip


def _is_a_users(callback: L.Callback, base: type) -> bool:
    """True for a method of a user's own, whose attributes no class of the package sets but the base class."""
    known = [one for one in type(callback).__mro__ if one.__module__.startswith("hetfed_lightning.")]
    return known[:1] == [base] and type(callback) is not base


def _plain_values(method: L.Callback, base: type) -> dict[str, Any]:
    """Numbers, text and containers of them that a method holds, by attribute."""
    own = {name: one for name, one in vars(method).items() if not hasattr(base, name)}
    return {name: plain for name, one in own.items() if (plain := _plain(one, DEEPEST)) is not None}


def _plain(value: Any, depth: int) -> Any:
    """Copy of a plain value that compares by content; None for anything else."""
    if isinstance(value, bool | int | float | str):
        return repr(value)  # NaN is equal to itself there.
    if depth and isinstance(value, Mapping):
        return [(repr(key), _plain(one, depth - 1)) for key, one in value.items()]
    if depth and isinstance(value, list | tuple | set | frozenset | deque):
        return [_plain(one, depth - 1) for one in value]
    return None


def _is_as_before(tensor: Tensor, before: tuple[weakref.ref[Tensor], int] | None) -> bool:
    return before is not None and before[0]() is tensor and before[1] == tensor._version


def _held(callback: L.Callback) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(callback).items():
        if name in RUNNING:
            continue
        yield from _tensors(value, name, DEEPEST)


def _tensors(value: Any, path: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Tensors in a value, of any shape, with their paths; objects of a run (Lightning modules, trainers) have none."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, nn.Module):
        if not isinstance(value, L.LightningModule):
            yield from ((f"{path}.{key}", one) for key, one in value.state_dict(keep_vars=True).items() if _is(one))
    elif isinstance(value, Optimizer):
        yield from _tensors(list(value.state.values()), path, depth)
    elif depth and isinstance(value, Mapping):
        for key, one in value.items():
            yield from _tensors(one, f"{path}[{key!r}]", depth - 1)
    elif depth and isinstance(value, list | tuple):
        for index, one in enumerate(value):
            yield from _tensors(one, f"{path}[{index}]", depth - 1)


def _is(value: Any) -> bool:
    return isinstance(value, Tensor)
