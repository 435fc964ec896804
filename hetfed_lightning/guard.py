"""Keeps a participant whose numbers ran away from reaching anyone else, or a file."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hetfed_lightning.participant import Participant

log = logging.getLogger(__name__)


@torch.no_grad()
def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every element of every floating-point tensor is finite (one synchronisation with the device).

    A sum with an infinity or a NaN in it is never finite, and costs a fifteenth of looking at every element; that is
    left to sums that are not finite, since those of large numbers overflow.

    Args:
        tensors: On one device; of any dtypes, of which integers and bools are passed over.
    """
    floating = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not floating or bool(torch.isfinite(torch.stack([tensor.sum() for tensor in floating])).all()):
        return True
    return all(bool(torch.isfinite(tensor).all()) for tensor in floating)


def names_of_non_finite(states: Mapping[str, Iterable[Tensor]]) -> list[str]:
    """Whose tensors are not finite; one look at all where nobody's are, which is nearly always."""
    held = {name: list(tensors) for name, tensors in states.items()}
    if is_finite(tensor for tensors in held.values() for tensor in tensors):
        return []
    return [name for name, tensors in held.items() if not is_finite(tensors)]


class FiniteGuard:
    """Last finite state of each participant, and who was taken out of this round.

    A participant whose weights or losses are not finite is *quarantined*: it returns to the state it had when the
    round began, its optimizer starts afresh, and nobody averages or learns from it until the next round.
    """

    def __init__(self) -> None:
        self.quarantined: dict[str, str] = {}
        self._safe: dict[str, dict[str, Tensor]] = {}

    def open_round(self, participants: dict[str, Participant]) -> None:
        """Release everyone and remember the states that the round starts from, of those who train in it.

        Whoever does not train stays as it was; the memory of its copy goes to who does.
        """
        self.quarantined = {}
        spare = [self._safe.pop(name) for name in list(self._safe) if name not in participants]
        states = {name: participant.view_of() for name, participant in participants.items()}
        unsafe = names_of_non_finite({name: state.values() for name, state in states.items()})
        for name, state in states.items():
            if name not in unsafe:
                if spare and name not in self._safe:
                    self._safe[name] = spare.pop()
                self._remember(name, state)

    def _remember(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Keep a copy, in the memory of the last one: fresh memory costs five times the copying."""
        kept = {key: tensor for key, tensor in self._safe.get(name, {}).items() if key in state}
        self._safe[name] = kept
        for key, tensor in state.items():
            copy = kept.get(key)
            if copy is None or (copy.shape, copy.dtype, copy.device) != (tensor.shape, tensor.dtype, tensor.device):
                kept[key] = tensor.clone()
            else:
                copy.copy_(tensor)

    def safe_state(self, name: str) -> dict[str, Tensor] | None:
        """The participant's last finite state, or None if it never had one."""
        return self._safe.get(name)

    def quarantine(
        self, name: str, participant: Participant, optimizers: list[Optimizer], round_index: int, reason: str
    ) -> None:
        """Take a participant out of this round and back to where it started."""
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
