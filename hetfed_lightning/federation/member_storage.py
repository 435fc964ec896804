"""Storage of participants in a federation: own memory for those that train, shared tensors for those that wait.

Participants that train in a round are *materialised* as it opens, in memory released by those of the round before.
Moving the federation to a device and loading a checkpoint keep shared tensors shared. So neither needs memory for the
shared state times the number of participants.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor

from hetfed_lightning.shared_storage.copy_on_write import KeepsLoans, Loan, place_of

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant


Signature = tuple[torch.Size, torch.dtype, torch.device]


class SpareStorage:
    """Pool of memory, released by participants that have trained and reused by those that train next.

    Fresh memory costs several times the copying into it. A copy of the pool, or a pickle, is empty.
    """

    def __init__(self) -> None:
        self._spare: dict[Signature, list[Tensor]] = defaultdict(list)
        self._given: dict[tuple[str, str], Tensor] = {}

    def __reduce__(self) -> tuple[type[SpareStorage], tuple[()]]:
        """Arguments of a copy, which is empty."""
        return SpareStorage, ()

    def copy_for(self, name: str, key: str, tensor: Tensor) -> Tensor:
        """Copy of ``tensor``, of the same shape and dtype, in unused memory.

        Args:
            name: Name of the participant.
            key: Key of its tensor.
            tensor: Tensor to copy.
        """
        spare = self._spare[tensor.shape, tensor.dtype, tensor.device]
        copy = spare.pop() if spare else torch.empty_like(tensor, memory_format=torch.contiguous_format)
        self._given[name, key] = copy.copy_(tensor)
        return copy

    def take_back(self, returned: Callable[[str, str], bool]) -> None:
        """Make memory available again where ``returned(name, key)`` is True."""
        for (name, key), tensor in list(self._given.items()):
            if returned(name, key):
                self._spare[tensor.shape, tensor.dtype, tensor.device].append(tensor)
                del self._given[name, key]

    def clear(self) -> None:
        """Release all memory."""
        self._spare.clear()
        self._given.clear()


class LendsStorage(L.LightningModule):
    """LightningModule of participants, of which the waiting ones share tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = SpareStorage()

    @abstractmethod
    def everyone(self) -> dict[str, Participant]:
        """Participants by name, with the student."""

    @staticmethod
    @abstractmethod
    def prefix_of(name: str) -> str:
        """Prefix of a participant's keys in the federation's ``state_dict``."""

    @abstractmethod
    def __getitem__(self, name: str) -> Participant:
        """Participant of a name."""

    @abstractmethod
    def trained(self, round_index: int) -> list[str]:
        """Names of everyone whose weights a round changes."""

    @property
    @abstractmethod
    def current_round(self) -> int:
        """Index of the round in progress, from 0."""

    def on_validation_model_zero_grad(self) -> None:
        """Clear gradients; participants that do not train have none."""
        for name in self.trained(self.current_round):
            self[name].zero_grad()

    def materialise(self, name: str) -> None:
        """Give a participant storage of its own for borrowed tensors, as a round opens in which it trains."""
        self[name].materialise(copy=lambda key, tensor: self.spare.copy_for(name, key, tensor))

    def materialise_active(self, names: Iterable[str]) -> None:
        """Release the memory of participants that borrow again, and materialise those that train next."""
        self.spare.take_back(lambda name, key: self[name].borrows(key) is not None)
        for name in names:
            self.materialise(name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        loans = {id(loan): loan for participant in self.everyone().values() for loan in participant.loans}
        self.spare.clear()
        return super()._apply(KeepsLoans(fn, loans.values()), recurse)  # type: ignore[no-untyped-call]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state as ``Module.load_state_dict`` does; tensors that are one in it are borrowed from one loan.

        Args:
            state_dict: Tensors by key.
            strict: True to refuse missing and unknown keys.
            assign: True to take the tensors themselves instead of copies.
        """
        if assign:
            for participant in self.everyone().values():
                participant.materialise()
        else:
            borrow_as_saved(self.everyone(), self.prefix_of, state_dict)
        return super().load_state_dict(state_dict, strict, assign)


@torch.no_grad()
def borrow_as_saved(
    participants: Mapping[str, Participant], prefix_of: Callable[[str], str], state: Mapping[str, Any]
) -> None:
    """Make participants borrow tensors that are one in a state, and own all others.

    Args:
        participants: Participants by name.
        prefix_of: Returns the prefix of a participant's keys in ``state``.
        state: State of a federation; a file saved with shared tensors is read with shared tensors.
    """
    places: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    own_of = {name: participant.state_dict(keep_vars=True) for name, participant in participants.items()}

    def saved(name: str, key: str) -> Tensor | None:
        found = state.get(f"{prefix_of(name)}.{key}")
        mine = own_of[name][key]  # `Module.get_extra_state` puts anything into a state.
        alike = isinstance(found, Tensor) and isinstance(mine, Tensor) and found.shape == mine.shape
        return found if alike else None

    for name, own in own_of.items():
        for key in own:
            if (tensor := saved(name, key)) is not None:
                places[key, *place_of(tensor)].add(name)
    loans: dict[tuple[Any, ...], Loan] = {}
    for name, participant in participants.items():
        for key, mine in own_of[name].items():
            tensor = saved(name, key)
            place = ("nowhere",) if tensor is None else (key, *place_of(tensor))
            if tensor is None or len(places[place]) == 1:
                participant.materialise([key], copy=lambda _, borrowed: torch.empty_like(borrowed))
                continue
            if place not in loans:
                loans[place] = Loan({key: torch.empty_like(mine.detach()).copy_(tensor)}, places[place])
            participant.borrow(loans[place])
