"""Arithmetic of one group's average: weights and their bounds, the rule's result, and its check for finiteness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hetfed_lightning.aggregation import AggregationFunction, AggregationRule, State
from hetfed_lightning.aggregation.shares import bounded_weights, sample_count
from hetfed_lightning.data.name_checks import of_member
from hetfed_lightning.finite import is_finite

Rule = AggregationRule | AggregationFunction


def name_of(rule: Rule) -> str:
    """Name of a rule in messages."""
    return getattr(rule, "__name__", type(rule).__name__)


def weights_by_name(weighting: Mapping[str, float], names: Sequence[str]) -> Tensor:
    """Weights set by name, shape ``(K,)``, in float64; 0 for participants without one.

    Args:
        weighting: Weights by name, at least 0.
        names: Names of K participants.
    """
    return torch.tensor([float(of_member(weighting, name) or 0.0) for name in names], dtype=torch.float64)


def weights_by_samples(counts: Mapping[str, float], max_share: float) -> tuple[Tensor, dict[str, tuple[int, int]]]:
    """Numbers of examples as weights, shape ``(K,)``, none above a share of their sum.

    Args:
        counts: Training examples by name of K participants, as each claims.
        max_share: Largest fraction of all weights of one participant, in (0, 1].

    Returns:
        Weights, shape ``(K,)``, in float64; and of each bounded participant the count and the weight, by name.

    Raises:
        ValueError: If a count is not a positive number; names the participant.
    """
    claimed = torch.tensor([sample_count(count, name) for name, count in counts.items()], dtype=torch.float64)
    weights = bounded_weights(claimed, max_share)
    bounded = {
        name: (int(count), round(weight))
        for name, count, weight in zip(counts, claimed.tolist(), weights.tolist(), strict=True)
        if weight < count
    }
    return weights, bounded


def aggregated(rule: Rule, states: Sequence[State], weights: Tensor, where: str) -> State:
    """Result of a rule, checked to have the keys, shapes and dtypes of the states.

    Args:
        rule: Function or module of K states and their weights.
        states: States of K participants, tensors of equal keys and shapes.
        weights: Weights, shape ``(K,)``.
        where: Beginning of error messages, such as ``"Round 3"``.

    Raises:
        ValueError: If the rule returns anything else.
    """
    aggregate = rule(states, weights)
    if not isinstance(aggregate, Mapping):
        raise ValueError(  # noqa: TRY004 - the same kind of error as for another fault of the rule
            f"{where}: expected of {name_of(rule)} a state, got {type(aggregate).__name__}."
        )
    expected = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in states[0].items()}
    found = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in aggregate.items()}
    if found != expected:
        key = next(key for key in expected | found if expected.get(key) != found.get(key))
        raise ValueError(
            f"{where}: expected of {name_of(rule)} a state like the participants', with {key} of "
            f"shape and dtype {expected.get(key)}, got {found.get(key)}."
        )
    return aggregate


def refuse_non_finite(shared: State, cause: str, senders: Sequence[str], where: str) -> None:
    """Refuse a non-finite average of finite states, caused by the rule or the server optimizer.

    Args:
        shared: The average by key.
        cause: Name of the rule or optimizer.
        senders: Names of the averaged participants.
        where: Beginning of error messages, such as ``"Round 3"``.

    Raises:
        RuntimeError: If it is not finite; names the key and what to change.
    """
    if is_finite(shared.values()):
        return
    key = next(key for key, tensor in shared.items() if not is_finite([tensor]))
    raise RuntimeError(
        f"{where}: what {cause} made of {', '.join(senders)} is not finite at {key}, though what they "
        "sent was; nobody received it. Lower the server optimizer's learning rate, or mend the rule."
    )
