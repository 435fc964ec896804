"""How a newcomer takes over what a federation has learned: weights first held still, then tuned slowly, or a lesson."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hetfed_lightning.aggregation import weighted_mean
from hetfed_lightning.inseparable import foundation, is_direction, with_unit_directions

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from hetfed_lightning.participant import Participant


@dataclass(frozen=True)
class Transfer:
    """What a participant does with what it receives as it joins.

    Attributes:
        frozen_rounds: Rounds from its first one on in which what it shares stays as it was received, so that a new
            head does not spoil it. A lesson comes before that and teaches all of it.
        learning_rate_ratio: Learning rate of what it shares over that of the rest, in (0, 1].
        distillation_epochs: Passes over the public set, before its first local step, in which it learns from the
            ensemble of those who were there before; for a participant whose architecture is new. 0 for none.
        temperature: At which it learns where a trained federation is joined afterwards, above 0; in a run it is that of
            its ``EnsembleDistillation``.

    Raises:
        ValueError: If a setting is out of its range.

    Reference:
        Yosinski et al. (2014), How transferable are features in deep neural networks?, section 3 (frozen and
        fine-tuned layers); Howard and Ruder (2018), Universal Language Model Fine-tuning, section 3.2 (lower rates
        for what was transferred).
    """

    frozen_rounds: int = 0
    learning_rate_ratio: float = 1.0
    distillation_epochs: int = 0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        for name, count in (("frozen_rounds", self.frozen_rounds), ("distillation_epochs", self.distillation_epochs)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise ValueError(f"transfer.{name}: expected an integer of at least 0, got {count!r}.")
        if not 0 < self.learning_rate_ratio <= 1:
            raise ValueError(
                f"transfer.learning_rate_ratio: expected a number in (0, 1], got {self.learning_rate_ratio}."
            )
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"transfer.temperature: expected a finite number above 0, got {self.temperature}.")


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


def slow_down(optimizer: Optimizer, participant: Participant) -> None:
    """Give what a participant shares a group of its own in the optimizer, with its own learning rate.

    Args:
        optimizer: Fresh; each of its groups is divided.
        participant: Whose parameters they are.
    """
    transfer = participant.transfer
    if transfer is None or transfer.learning_rate_ratio == 1:
        return
    keys = set(participant.shared_keys())
    shared = {id(parameter) for key, parameter in participant.named_parameters(remove_duplicate=False) if key in keys}
    if all(id(parameter) in shared for group in optimizer.param_groups for parameter in group["params"]):
        return
    for whole in list(optimizer.param_groups):
        slow = [parameter for parameter in whole["params"] if id(parameter) in shared]
        rest = [parameter for parameter in whole["params"] if id(parameter) not in shared]
        rate = whole["lr"] * transfer.learning_rate_ratio
        if slow and rest:
            settings = {key: value for key, value in whole.items() if key != "params"}
            whole["params"] = rest
            optimizer.add_param_group(settings | {"params": slow, "lr": rate})
        elif slow:
            whole["lr"] = rate


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
