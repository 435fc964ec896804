"""Warning of callbacks' tensors that no checkpoint holds, if they have changed since a fit began.

A callback without ``state_dict`` begins anew when a run is resumed, and nothing tells its user. Constants and networks
that never change are set up again anyway, so only changes since the beginning count.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import lightning as L
from torch import Tensor, nn
from torch.optim import Optimizer

log = logging.getLogger(__name__)

DEEPEST = 4
"""Depth to which nested containers are searched."""

Held = Mapping[str, tuple[weakref.ref[Tensor], int]]
"""Tensors by attribute, each as a weak reference with its version."""


class ForgottenState:
    """Search, at each checkpoint, of a run's callbacks for changed tensors that no checkpoint holds."""

    def __init__(self) -> None:
        self._before: dict[L.Callback, Held] = {}
        self._told: set[L.Callback] = set()

    def begin(self, callbacks: Iterable[L.Callback]) -> None:
        """Record the callbacks' tensors before the first round."""
        self._told = set()
        self._before = {
            one: {path: (weakref.ref(tensor), tensor._version) for path, tensor in _held(one)} for one in callbacks
        }

    def look(self, module: nn.Module) -> None:
        """Warn of callbacks with changed tensors that are saved nowhere, once for each, by name.

        Args:
            module: The federation; its own tensors are saved, so callbacks may hold them.
        """
        suspects = [one for one in self._before if one not in self._told and not _saves_something(one)]
        own = {id(tensor) for tensor in (*module.parameters(), *module.buffers())} if suspects else set()
        for callback in suspects:
            before = self._before[callback]
            changed = [
                path
                for path, tensor in _held(callback)
                if id(tensor) not in own and not _is_as_before(tensor, before.get(path))
            ]
            if changed:
                self._told.add(callback)
                attributes = list(dict.fromkeys(path.split(".")[0].split("[")[0] for path in changed))
                log.warning(
                    "%s has changed tensors in %s, and saves nothing of them: a run resumed from this checkpoint "
                    "begins with others, and may end in another result. Define state_dict() and load_state_dict(state) "
                    "of the callback. Where they are made anew in every round, set them to None in on_round_end.",
                    type(callback).__name__, ", ".join(attributes),
                )  # fmt: skip


def _saves_something(callback: L.Callback) -> bool:
    kind = type(callback)
    return (
        kind.__module__.startswith("hetfed_lightning.")
        or kind.on_save_checkpoint is not L.Callback.on_save_checkpoint
        or bool(callback.state_dict())
    )


def _is_as_before(tensor: Tensor, before: tuple[weakref.ref[Tensor], int] | None) -> bool:
    return before is not None and before[0]() is tensor and before[1] == tensor._version


def _held(callback: L.Callback) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(callback).items():
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
