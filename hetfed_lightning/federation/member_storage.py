"""Storage of participants in a federation: own memory for those that train, shared tensors for those that wait.

Participants that train in a round are *materialised* as it opens, in memory released by those of the round before.
Moving the federation to a device and loading a checkpoint keep shared tensors shared. So neither needs memory for the
shared state times the number of participants.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

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


class MemberStorage:
    """Storage of a federation's participants, of which those that wait point at tensors that they have in common.

    Attributes:
        spare: Memory for those who train next.
    """

    def __init__(self) -> None:
        self.spare = SpareStorage()

    def materialise(self, name: str, participant: Participant) -> None:
        """Give a participant storage of its own for what it borrows.

        Args:
            name: Name of the participant.
            participant: The participant, as a round opens in which it trains.
        """
        participant.materialise(copy=lambda key, tensor: self.spare.copy_for(name, key, tensor))

    def materialise_active(self, everyone: Mapping[str, Participant], names: Iterable[str]) -> None:
        """Take back the memory of those who borrow again, and give it to who trains next.

        Args:
            everyone: Participants by name, the student among them.
            names: Names of those who train next.
        """
        self.spare.take_back(lambda name, key: everyone[name].borrows(key) is not None)
        for name in names:
            self.materialise(name, everyone[name])

    def keeping_loans(
        self, fn: Callable[[Tensor], Tensor], everyone: Mapping[str, Participant]
    ) -> Callable[[Tensor], Tensor]:
        """A function of tensors, as ``Module._apply`` takes it, after which shared tensors are shared still.

        Args:
            fn: Function that moves or converts a tensor.
            everyone: Participants by name, the student among them.
        """
        loans = {id(loan): loan for participant in everyone.values() for loan in participant.loans}
        self.spare.clear()
        return KeepsLoans(fn, loans.values())

    def expect(
        self,
        everyone: Mapping[str, Participant],
        prefix_of: Callable[[str], str],
        state: Mapping[str, Any],
        *,
        assign: bool,
    ) -> None:
        """Share storage as a state does that is about to be loaded.

        Args:
            everyone: Participants by name, the student among them.
            prefix_of: Function from a name to the beginning of the participant's keys in ``state``.
            state: State of a federation.
            assign: True if the tensors of ``state`` take the places of the participants'.
        """
        if not assign:
            borrow_as_saved(everyone, prefix_of, state)
            return
        for participant in everyone.values():
            participant.materialise()


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
