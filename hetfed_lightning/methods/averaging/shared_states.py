"""Shared state of each sharing group, handed to members as copies or as shared storage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hetfed_lightning.shared_storage.copy_on_write import Loan

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.methods.averaging.sharing_groups import SharingGroup


class SharedStates:
    """Last shared state of every group.

    Participants that train in a round receive copies. If some members wait, because not all are sampled, the state is a
    :class:`Loan`: all joined members point at it when the round ends, and the next sample gets storage of its own as
    its round opens. A new state is written into the loan once, for all who borrow it.
    """

    def __init__(self) -> None:
        self._states: dict[str, dict[str, Tensor]] = {}
        self._loans: dict[str, Loan] = {}

    def __contains__(self, group: SharingGroup) -> bool:
        """True if the group has a state."""
        return group.name in self._states

    def __getitem__(self, group: SharingGroup) -> dict[str, Tensor]:
        """State of the group by key; not to be written to."""
        return self._states[group.name]

    def begin(self, group: SharingGroup, state: dict[str, Tensor]) -> None:
        """Set the group's first state.

        Args:
            group: Group of the members.
            state: Tensors by key, of the parameters' shapes, that belong to no participant.
        """
        self._states[group.name] = state

    def hand_out(self, federation: FederationView, group: SharingGroup, names: Iterable[str], round_index: int) -> None:
        """Hand the group's state to members as a round opens: copies to those who train in it, a loan to the others.

        Args:
            federation: The federation, in the round.
            group: Group of the members.
            names: Names of the receiving members.
            round_index: Index of the round, from 0.
        """
        active = set(federation.active_names(round_index))
        for name in names:
            if name in active:
                federation[name].load_state_of(self[group])
            else:
                federation[name].borrow(self._loan(federation, group))

    def replace(
        self,
        federation: FederationView,
        group: SharingGroup,
        state: dict[str, Tensor],
        round_index: int,
        *,
        trains: bool = False,
    ) -> None:
        """Set a new state of the group, and hand it to all joined members.

        Args:
            federation: The federation, in the round.
            group: Group of the members.
            state: Tensors by key, in the shapes of the last state.
            round_index: Index of the round, from 0.
            trains: True before the local steps of the round, for which those who train need tensors of their own.
        """
        joined, active = federation.joined(round_index), federation.active_names(round_index)
        if len(active) == len(joined):
            self._loans.pop(group.name, None)
            self._states[group.name] = state
            federation.fleets.load(federation, (name for name in joined if name in group), state)
            return
        self._states.setdefault(group.name, state)
        loan = self._loan(federation, group)
        loan.update(state)
        receivers = [name for name in loan.missing if federation[name].is_member(round_index)]
        if trains:
            self.hand_out(federation, group, receivers, round_index)
            return
        for name in receivers:
            federation[name].borrow(loan)

    def _loan(self, federation: FederationView, group: SharingGroup) -> Loan:
        if group.name not in self._loans:
            # A checkpoint's state lies on the CPU.
            here = {key: tensor.to(federation.device) for key, tensor in self[group].items()}
            self._loans[group.name] = Loan(here, group.members)
            self._states[group.name] = self._loans[group.name].tensors
        return self._loans[group.name]

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """States by the groups' names, tensors by key."""
        return self._states

    def load_state_dict(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Set states from a checkpoint, copied since loans are written to."""
        self._states = {name: {key: tensor.clone() for key, tensor in one.items()} for name, one in states.items()}
        self._loans = {}
