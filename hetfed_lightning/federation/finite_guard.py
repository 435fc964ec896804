"""Quarantine of participants with non-finite numbers, so that those reach neither others nor a file."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

from hetfed_lightning.finite import names_of_non_finite
from hetfed_lightning.shared_storage.deduplicate import Twins

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from hetfed_lightning.participants.participant import Participant

log = logging.getLogger(__name__)


class _Spare:
    """Memory of copies that are no longer needed, for new ones: fresh memory costs five times the copying.

    Args:
        old: Copies to overwrite.
        kept: Copies to leave alone, of which ``old`` may hold some as well.
    """

    def __init__(self, old: Mapping[str, Mapping[str, Tensor]], kept: Mapping[str, Mapping[str, Tensor]]) -> None:
        needed = {id(tensor) for state in kept.values() for tensor in state.values()}
        free = {id(tensor): tensor for state in old.values() for tensor in state.values() if id(tensor) not in needed}
        self._free: dict[Hashable, list[Tensor]] = defaultdict(list)
        for tensor in free.values():
            self._free[tensor.shape, tensor.dtype, tensor.device].append(tensor)
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def copy_of(self, tensor: Tensor) -> Tensor:
        """A copy, the same one for the same tensor."""
        if id(tensor) not in self._copies:
            free = self._free[tensor.shape, tensor.dtype, tensor.device]
            copy = free.pop().copy_(tensor) if free else tensor.clone()
            self._copies[id(tensor)] = (tensor, copy)
        return self._copies[id(tensor)][1]


class FiniteGuard:
    """Last finite state of each participant, and the quarantined participants of the round.

    A participant whose weights or losses are not finite is *quarantined*: it returns to the state that it had when the
    round began, its optimizer starts afresh, and it neither sends nor teaches until the next round.
    """

    def __init__(self) -> None:
        self.quarantined: dict[str, str] = {}
        self._safe: dict[str, dict[str, Tensor]] = {}

    def open_round(self, participants: dict[str, Participant]) -> None:
        """Release all participants, and store the states of those that train in the round.

        Equal tensors of several participants, as after averaging, are stored once.

        Args:
            participants: Participants that train in the round, by name.
        """
        self.quarantined = {}
        twins = Twins()
        states = {
            name: {key: twins.of(key, tensor) for key, tensor in participant.view_of().items()}
            for name, participant in participants.items()
        }
        unsafe = names_of_non_finite({name: state.values() for name, state in states.items()})
        kept = {name: self._safe.pop(name) for name in unsafe if name in self._safe}
        spare = _Spare(self._safe, kept)
        self._safe = kept | {
            name: {key: spare.copy_of(tensor) for key, tensor in state.items()}
            for name, state in states.items()
            if name not in unsafe
        }

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Leave out of this round whom a checkpoint names, with the reason for each."""
        self.quarantined.update(reasons)

    def hold(self, states: Mapping[str, dict[str, Tensor]]) -> None:
        """Replace the stored states by others, for a round that goes on in another process."""
        self._safe |= states

    def safe_state(self, name: str) -> dict[str, Tensor] | None:
        """Last finite state of a participant, by key; None if it never had one."""
        return self._safe.get(name)

    def quarantine(
        self, name: str, participant: Participant, optimizers: list[Optimizer], round_index: int, reason: str
    ) -> None:
        """Quarantine a participant, and restore its stored state.

        Args:
            name: Name of the participant.
            participant: The participant.
            optimizers: Its optimizers, whose states are cleared.
            round_index: Index of the round, from 0, for the log.
            reason: Reason for the log.
        """
        if name in self.quarantined:
            return
        self.quarantined[name] = reason
        safe = self._safe.get(name)
        if safe is not None:
            participant.load_state_of(safe)
        for optimizer in optimizers:
            optimizer.state = defaultdict(dict)
            optimizer.zero_grad()
        returned = "it returns to its state at the round's start" if safe is not None else "it has no finite state yet"
        log.warning(
            "Round %d: participant %r is left out, %s; %s. Look for numbers in its data that are not finite; a smaller "
            "learning rate or gradient_clip_val may help.",
            round_index, name, reason, returned,
        )  # fmt: skip
