"""Memory of a group at the server: the last result, and tensors or modules that the method keeps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.methods.messages import Message

T = TypeVar("T")


class ServerMemory:
    """Memory of one group at the server; saved in checkpoints, never sent.

    Attributes:
        group: Name of the group.
        last: Last result of the group, tensors by key; empty before the first. Not to be written to.
        own: Last result by participant and key, if results differ between participants.
        tensors: Values that the method keeps, by key: tensors, numbers, and lists and dictionaries of them.
        scores: Last validation score of each participant on its own data by the headline metric of its task, clamped to
            [0, 1], for methods with ``needs_scores``; who has none yet is missing. Not to be written to.
    """

    def __init__(self, group: str) -> None:
        self.group = group
        self.last: dict[str, Tensor] = {}
        self.own: dict[str, Message] = {}
        self.tensors: MutableMapping[str, Any] = {}
        self.scores: Mapping[str, float] = {}
        self._kept: dict[str, Any] = {}
        self._saved: dict[str, Any] = {}

    def kept(self, name: str, make: Callable[[], T]) -> T:
        """Object with ``state_dict`` and ``load_state_dict``, such as a module or an optimizer, made once in a run.

        Args:
            name: Key of the object.
            make: Makes the object at the first call in a run; a state from a checkpoint is then loaded into it.
        """
        if name not in self._kept:
            made: Any = make()
            if name in self._saved:
                made.load_state_dict(self._saved.pop(name))
            self._kept[name] = made
        found: T = self._kept[name]
        return found

    def continued(self, group: str, keys: Collection[str] | None = None) -> ServerMemory:
        """Copy of the memory for a group that continues from this one.

        Args:
            group: Name of the new group.
            keys: Keys of the last result to copy; None for everything.
        """
        found = ServerMemory(group)
        if keys is None:
            found.load_state_dict(self.state_dict())
        else:
            found.last = {key: self.last[key] for key in keys}
        return found

    def received_by(self, name: str) -> Message:
        """Last result, tensors by key, as one member received it."""
        return self.own.get(name, self.last)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data for a checkpoint."""
        kept = {name: one.state_dict() for name, one in self._kept.items()}
        return {
            "last": dict(self.last),
            "own": {name: dict(one) for name, one in self.own.items()},
            "tensors": dict(self.tensors),
            "kept": self._saved | kept,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        self.last = {key: one.clone() for key, one in state["last"].items()}
        self.own = {name: dict(one) for name, one in state["own"].items()}
        self.tensors = dict(state["tensors"])
        self._kept, self._saved = {}, dict(state["kept"])
