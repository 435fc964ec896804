"""Keeps a participant whose numbers ran away from reaching anyone else, or a file."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Container, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hetfed_lightning.twins import Twins

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hetfed_lightning.participant import Participant

log = logging.getLogger(__name__)

LARGEST = 1e12
"""Largest absolute value of a parameter. The mean of larger ones is finite, and what is trained from it is not: whoever
receives it is ruined in turn, and would be named for it."""

LARGEST_LOGIT = 1e30
"""Largest absolute value of a logit on the public set: sums of larger ones are no numbers in float32."""

LARGEST_PREDICTION = 1e15
"""Largest absolute value that a regression predicts on the public set, of which losses take squares."""


@torch.no_grad()
def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every element of every floating-point or complex tensor is finite (one synchronisation with the device).

    A sum with an infinity or a NaN in it is never finite, and costs a fifteenth of looking at every element; that is
    left to sums that are not finite, since those of large numbers overflow.

    Args:
        tensors: On one device; of any dtypes, of which integers and bools are passed over.
    """
    floating = _real(tensors)
    if not floating or bool(torch.isfinite(torch.stack([tensor.sum() for tensor in floating])).all()):
        return True
    return all(bool(torch.isfinite(tensor).all()) for tensor in floating)


@torch.no_grad()
def largest_number(tensors: Iterable[Tensor]) -> float:
    """Largest absolute value in any floating-point or complex tensor; NaN if one holds a NaN (one synchronisation).

    Args:
        tensors: On one device; of any dtypes, of which integers and bools are passed over.
    """
    ends = [end for tensor in _real(tensors) for end in torch.aminmax(tensor)]
    return float(torch.stack(ends).abs().max()) if ends else 0.0


def _real(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Floating-point tensors that are not empty, complex ones as both of their parts.

    Floats of eight bits become wider: torch neither adds nor compares them.
    """
    held = [torch.view_as_real(one.resolve_conj()) if one.is_complex() else one for one in tensors]
    floating = [tensor for tensor in held if tensor.is_floating_point() and tensor.numel()]
    return [tensor.float() if tensor.element_size() == 1 else tensor for tensor in floating]


def why_unusable(state: Mapping[str, Tensor], parameters: Container[str]) -> str:
    """Why others cannot go on with a state: it is not finite, or a parameter is too large; empty where they can.

    Buffers are as large as the data make them: of features that are not scaled, variances are squares.

    Args:
        state: Tensors by key.
        parameters: Keys of those that are parameters rather than buffers.
    """
    if not is_finite(state.values()):
        return "its weights are not finite"
    for key, tensor in state.items():
        if key in parameters and (found := largest_number([tensor])) > LARGEST:
            return f"its weights are as large as {found:.3g} at {key}, beyond {LARGEST:g}"
    return ""


def why_not_heard(answers: Tensor, kind: str) -> str:
    """Why nobody can learn from answers to the public set: not finite, or too large; empty where one can.

    Args:
        answers: Outputs, shape ``(P, C)``.
        kind: Of outputs, such as ``"multiclass"``.
    """
    if not is_finite([answers]):
        return "its predictions on the public set are not finite"
    found, most = largest_number([answers]), LARGEST_PREDICTION if kind == "regression" else LARGEST_LOGIT
    return "" if found <= most else f"its predictions on the public set are as large as {found:.3g}, beyond {most:g}"


def names_beyond(states: Mapping[str, Iterable[Tensor]], most: float) -> list[str]:
    """Whose tensors are not finite, or larger than ``most``; one look at all where nobody's are."""
    held = {name: list(tensors) for name, tensors in states.items()}
    if largest_number({id(tensor): tensor for tensors in held.values() for tensor in tensors}.values()) <= most:
        return []
    return [name for name, tensors in held.items() if not largest_number(tensors) <= most]


def names_of_non_finite(states: Mapping[str, Iterable[Tensor]]) -> list[str]:
    """Whose tensors are not finite; one look at all where nobody's are, which is nearly always."""
    held = {name: list(tensors) for name, tensors in states.items()}
    if is_finite({id(tensor): tensor for tensors in held.values() for tensor in tensors}.values()):
        return []
    return [name for name, tensors in held.items() if not is_finite(tensors)]


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
    """Last finite state of each participant, and who was taken out of this round.

    A participant whose weights or losses are not finite is *quarantined*: it returns to the state it had when the
    round began, its optimizer starts afresh, and nobody averages or learns from it until the next round.
    """

    def __init__(self) -> None:
        self.quarantined: dict[str, str] = {}
        self._safe: dict[str, dict[str, Tensor]] = {}

    def open_round(self, participants: dict[str, Participant]) -> None:
        """Release everyone and remember the states that the round starts from, of those who train in it.

        What several have alike, as after averaging, is kept once. Whoever does not train stays as it was.
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

    def hold(self, states: Mapping[str, dict[str, Tensor]]) -> None:
        """Take other states for those that the round began with, as where it goes on in another process."""
        self._safe |= states

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
