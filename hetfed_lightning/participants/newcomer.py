"""First rounds of a newcomer: weights inherited from others, and shared weights frozen for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from hetfed_lightning.aggregation import weighted_mean
from hetfed_lightning.participants.inseparable import foundation, is_direction, with_unit_directions

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.participants.participant import Participant


def hold_still(participant: Participant, round_index: int) -> None:
    """Freeze a participant's shared parameters in the first rounds of its membership; unfreeze them afterwards.

    Args:
        participant: Participant; parameters that its owner had frozen stay frozen.
        round_index: Index of the round that opens, from 0.
    """
    transfer = participant.transfer
    if transfer is None or transfer.frozen_rounds == 0:
        return
    let_go(participant)
    if participant.joins_at <= round_index < participant.joins_at + transfer.frozen_rounds:
        shared = set(participant.shared_keys())
        for key, parameter in participant.named_parameters(remove_duplicate=False):
            if key in shared and parameter.requires_grad:
                parameter.requires_grad_(False)
                participant.held.add(key)


def let_go(participant: Participant) -> None:
    """Unfreeze all parameters that :func:`hold_still` froze."""
    parameters = dict(participant.named_parameters(remove_duplicate=False))
    for key in participant.held:
        parameters[key].requires_grad_(True)
    participant.held.clear()


@contextmanager
def taught(participant: Participant, round_index: int) -> Iterator[None]:
    """Context of a lesson before the first round, in which all of a participant trains; then it is frozen as due.

    Args:
        participant: Newcomer.
        round_index: Index of the round, from 0.
    """
    let_go(participant)
    try:
        yield
    finally:
        hold_still(participant, round_index)


def inherited_state(newcomer: Participant, others: Mapping[str, Participant]) -> tuple[dict[str, Tensor], list[str]]:
    """Mean of the shared states of all participants with the newcomer's shared architecture.

    Args:
        newcomer: Participant that joins. Running statistics are not inherited; buffers of parametrized weights are.
        others: Present participants by name.

    Returns:
        The state and the names of its sources. Both are empty unless somebody shares all keys of the newcomer, in equal
        shapes and over equal frozen weights.
    """
    own, keys = newcomer.state_dict(keep_vars=True), newcomer.averaged_keys()
    bound = [key for key in keys if key in newcomer.buffer_keys() and not is_direction(key, keys)]
    ground = foundation(newcomer, keys)
    kin: list[str] = []
    for name, other in others.items():
        there, offered = other.state_dict(keep_vars=True), set(other.averaged_keys())
        fits = keys and all(key in offered and there[key].shape == own[key].shape for key in keys)
        # Weights over another base, or above other frozen ones, are no average with the first one's.
        first = others[kin[0]].state_dict(keep_vars=True) if kin else there
        if fits and foundation(other, keys) == ground and all(torch.equal(there[key], first[key]) for key in bound):
            kin.append(name)
    if not kin:
        return {}, []
    states = [others[name].state_of(keys) for name in kin]
    return with_unit_directions(weighted_mean(states, torch.ones(len(kin), dtype=torch.float64))), kin
