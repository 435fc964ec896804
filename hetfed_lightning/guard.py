"""Keeps a participant whose numbers ran away from reaching anyone else, or a file."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hetfed_lightning.participant import Participant

log = logging.getLogger(__name__)


def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every element of every floating-point tensor is finite (one synchronisation with the device)."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    return not floating or bool(torch.isfinite(get_total_norm(floating, norm_type=float("inf"))))


class FiniteGuard:
    """Last finite state of each participant, and who was taken out of this round.

    A participant whose weights or losses are not finite is *quarantined*: it returns to the state it had when the
    round began, its optimizer starts afresh, and nobody averages or learns from it until the next round.
    """

    def __init__(self) -> None:
        self.quarantined: dict[str, str] = {}
        self._safe: dict[str, dict[str, Tensor]] = {}

    def open_round(self, participants: dict[str, Participant]) -> None:
        """Release everyone and remember the states that the round starts from."""
        self.quarantined = {}
        for name, participant in participants.items():
            state = {key: tensor.detach().clone() for key, tensor in participant.state_dict().items()}
            if is_finite(state.values()):
                self._safe[name] = state

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
            "Round %d: participant %r is left out, %s; %s. A smaller learning rate or gradient_clip_val may help.",
            round_index, name, reason, returned,
        )  # fmt: skip
