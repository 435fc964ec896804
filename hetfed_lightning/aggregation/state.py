"""State: the tensors that a participant shares, by key, and the checks that come before any rule.

Every rule calls `check_states` first, so that nothing broadcasts, promotes or vanishes silently. A caller that knows
the participants' names calls it before the rule with these names, so that the message has the name and not an index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

State: TypeAlias = Mapping[str, Tensor]
"""One participant's shared tensors by key, as `torch.nn.Module.state_dict` returns them."""

AggregationFunction: TypeAlias = Callable[[Sequence[State], Tensor], dict[str, Tensor]]
"""Type of every rule, function or `AggregationRule`: ``(states, weights) -> state``."""


def check_states(states: Sequence[State], weights: Tensor, names: Sequence[str] | None = None) -> None:
    """Refuse states that disagree and weights that are no weights, naming the participant and the key.

    Values are not looked at: a non-finite tensor passes (finding those costs a pass over every parameter and is the
    business of a guard, not of a rule).

    Args:
        states: One state per participant, K in all.
        weights: Shape ``(K,)``; finite, not negative, not all zero; in any unit, since rules normalise them.
        names: K names for the messages; without them participants are called by their index.

    Raises:
        ValueError: If there is no state; if a participant's keys, or a tensor's shape, dtype or device, differ from the
            first participant's; if a tensor is complex; if the weights do not fit.
    """
    if len(states) == 0:
        raise ValueError("expected at least one state, got none: aggregate only in rounds that somebody takes part in")
    if names is not None and len(names) != len(states):
        raise ValueError(f"expected {len(states)} names, one per state, got {len(names)}: {list(names)}")
    who = [f"participant {k if names is None else repr(names[k])}" for k in range(len(states))]
    _check_weights(weights, who)
    for state, name in zip(states, who, strict=True):
        _check_keys(state, name, states[0], who[0])
        for key, tensor in state.items():
            _check_tensor(tensor, f"{name}, key {key!r}", states[0][key], who[0])


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """Dtype to sum in: float64, so that rounding stays below the resolution of float32 results.

    Args:
        tensor: A floating-point tensor of any shape, on the device that sums.

    Returns:
        ``torch.float64``, but ``torch.float32`` on Apple's ``mps``, which has no float64.
    """
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def maximum_over_participants(tensors: Sequence[Tensor]) -> Tensor:
    """Element-wise maximum of integer or bool tensors, by which every rule aggregates counters.

    A mean would turn a step counter into a fraction (7 and 10 into 8.5). The maximum of bools is "any of them". It is
    not robust: a false counter of one participant is taken as it is, whatever the rule.

    Args:
        tensors: At least one tensor; all of one shape and dtype.

    Returns:
        A new tensor of the same shape and dtype.
    """
    return torch.stack([tensor.detach() for tensor in tensors]).amax(dim=0)


def _check_weights(weights: Tensor, who: Sequence[str]) -> None:
    if tuple(weights.shape) != (len(who),):
        raise ValueError(
            f"expected weights of shape ({len(who)},), one per state, got shape {tuple(weights.shape)}: "
            "pass a vector with one weight per participant"
        )
    values = weights.tolist()
    for name, value in zip(who, values, strict=True):
        if not math.isfinite(value) or value < 0:
            raise ValueError(
                f"{name}: expected a finite weight of at least 0, got {value}: "
                "correct the number of samples it reports or leave it out of the round"
            )
    if not any(values):
        raise ValueError(f"expected at least one positive weight, got {len(values)} zeros: nobody is left to average")


def _check_keys(state: State, name: str, expected: State, reference: str) -> None:
    if state.keys() == expected.keys():
        return
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    raise ValueError(
        f"{name}: expected the same keys as {reference}, but it lacks {missing} and adds {unknown}: "
        "let both share the same part of their networks"
    )


def _check_tensor(tensor: Tensor, where: str, expected: Tensor, reference: str) -> None:
    # The type says Tensor, but `Module.get_extra_state` puts anything into a state_dict.
    if not isinstance(tensor, Tensor):
        raise ValueError(  # noqa: TRY004 - one kind of error for one kind of mistake: what was shared
            f"{where}: expected a tensor, got {type(tensor).__name__}: leave this key out of what is shared"
        )
    if tensor.is_complex():
        raise ValueError(f"{where}: expected a real tensor, got {tensor.dtype}: share its view_as_real instead")
    if tensor.shape != expected.shape:
        raise ValueError(
            f"{where}: expected shape {tuple(expected.shape)} as {reference} has, got {tuple(tensor.shape)}: "
            "nothing is broadcast; share only tensors of equal shape"
        )
    if tensor.dtype != expected.dtype:
        raise ValueError(
            f"{where}: expected dtype {expected.dtype} as {reference} has, got {tensor.dtype}: "
            "convert it before sharing"
        )
    if tensor.device != expected.device:
        raise ValueError(
            f"{where}: expected device {expected.device} as {reference} has, got {tensor.device}: "
            "move the states to one device before aggregating"
        )
