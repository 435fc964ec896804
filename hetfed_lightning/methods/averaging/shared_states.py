"""What each group of participants shares, and how its members come to have it: as a copy, or on loan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hetfed_lightning.shared_storage.copy_on_write import Loan

if TYPE_CHECKING:
    from hetfed_lightning.federation.federation import Federation
    from hetfed_lightning.methods.averaging.sharing_groups import SharingGroup


class SharedStates:
    """The last shared state of every group.

    Who trains in a round receives copies. Where somebody waits, because not all are sampled, the state is a
    :class:`Loan`: everyone who has joined borrows it when the round ends, and those who are sampled next are given
    storage of their own as that round opens. A new state is then written into the loan once, whoever borrows it.
    """

    def __init__(self) -> None:
        self._states: dict[str, dict[str, Tensor]] = {}
        self._loans: dict[str, Loan] = {}

    def __contains__(self, group: SharingGroup) -> bool:
        """Whether the group has a state yet."""
        return group.name in self._states

    def __getitem__(self, group: SharingGroup) -> dict[str, Tensor]:
        """The group's state; not to be written to."""
        return self._states[group.name]

    def begin(self, group: SharingGroup, state: dict[str, Tensor]) -> None:
        """Take a state that is nobody's for the group's first."""
        self._states[group.name] = state

    def hand_out(self, federation: Federation, group: SharingGroup, names: Iterable[str], round_index: int) -> None:
        """Give the group's state to members as a round opens: copies to those who train in it, a loan to the others."""
        active = set(federation.active_names(round_index))
        for name in names:
            if name in active:
                federation[name].load_state_of(self[group])
            else:
                federation[name].borrow(self._loan(federation, group))

    def replace(self, federation: Federation, group: SharingGroup, state: dict[str, Tensor], round_index: int) -> None:
        """Give a new state to all of the group who have joined, as a round ends."""
        joined, active = federation.joined(round_index), federation.active_names(round_index)
        if len(active) == len(joined):
            self._loans.pop(group.name, None)
            self._states[group.name] = state
            federation.fleets.load(federation, (name for name in joined if name in group), state)
            return
        self._states.setdefault(group.name, state)
        loan = self._loan(federation, group)
        loan.update(state)
        for name in list(loan.missing):
            if federation[name].is_member(round_index):
                federation[name].borrow(loan)

    def _loan(self, federation: Federation, group: SharingGroup) -> Loan:
        if group.name not in self._loans:
            # A checkpoint's state lies on the CPU.
            here = {key: tensor.to(federation.device) for key, tensor in self[group].items()}
            self._loans[group.name] = Loan(here, group.members)
            self._states[group.name] = self._loans[group.name].tensors
        return self._loans[group.name]

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The states by the groups' names."""
        return self._states

    def load_state_dict(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on with other states, copied since what is lent is written to."""
        self._states = {name: {key: tensor.clone() for key, tensor in one.items()} for name, one in states.items()}
        self._loans = {}
