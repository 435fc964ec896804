"""A newcomer's first rounds: what it takes over from others, and what is held still meanwhile."""

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
    """Freeze what a participant shares in the first rounds of its membership, and let go of it afterwards.

    Args:
        participant: What was frozen before, by whoever made it, stays so.
        round_index: The round that opens.
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
    """Have everything train that :func:`hold_still` froze."""
    parameters = dict(participant.named_parameters(remove_duplicate=False))
    for key in participant.held:
        parameters[key].requires_grad_(True)
    participant.held.clear()


@contextmanager
def taught(participant: Participant, round_index: int) -> Iterator[None]:
    """A lesson before the first round, in which all of a participant learns; what is to be frozen is so afterwards."""
    let_go(participant)
    try:
        yield
    finally:
        hold_still(participant, round_index)


def inherited_state(newcomer: Participant, others: Mapping[str, Participant]) -> tuple[dict[str, Tensor], list[str]]:
    """What a newcomer can take over from participants of its architecture: the mean of what they share.

    Args:
        newcomer: Who joins. Its running statistics are its own; what a parametrized weight is computed from is not.
        others: Who is there, by name.

    Returns:
        The state, and from whom it is; both empty where nobody shares all that the newcomer shares, in its shapes and
        over the same frozen weights.
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
