"""Checks of what a method's ``groups`` and ``combine`` return, and of messages that are combined together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.finite import is_finite
from hetfed_lightning.methods.hook_results import tensors_by_key
from hetfed_lightning.methods.messages import Combined, Message, MessageError, PerParticipant

OWN_FIGURES = ("bytes_up", "bytes_down", "participants", "quarantined")
"""Figures that the federation logs of each round itself."""


def checked_groups(found: Any, known: Collection[str], title: str) -> dict[str, tuple[str, ...]]:
    """Members of each group by the group's name, from what ``groups`` returned.

    Args:
        found: What it returned.
        known: Names of all known participants.
        title: Name of the method.

    Raises:
        MessageError: If it is no mapping of names to lists of known names, each once.
    """
    where = f"{title}.groups"
    if not isinstance(found, Mapping):
        raise MessageError(
            f"{where}: expected names of members by group, such as {{'all': ['a', 'b']}}, got {type(found).__name__}."
        )
    groups: dict[str, tuple[str, ...]] = {}
    for group, names in found.items():
        if not isinstance(group, str):
            raise MessageError(f"{where}: expected text as the name of a group, got {group!r}.")
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise MessageError(f"{where}: expected a list of names for the group {group!r}, got {names!r}.")
        for name, count in Counter(names).items():
            if name not in known:
                raise MessageError(f"{where}: there is no participant {name!r}{did_you_mean(str(name), known)}.")
            if count > 1:
                raise MessageError(f"{where}: {name!r} is {count} times in the group {group!r}.")
        groups[group] = tuple(names)
    return groups


def check_alike(sent: Mapping[str, Message], where: str) -> str:
    """Refuse messages whose keys or dtypes differ, which cannot mean the same.

    Args:
        sent: Messages of one group by sender.
        where: The hook that combines them, for messages.

    Returns:
        A warning where shapes differ and are stretched without an error by arithmetic; empty otherwise.

    Raises:
        MessageError: If keys or dtypes differ; names two participants and the key.
    """
    warning = ""
    if not sent:
        return warning
    (first, expected), *others = sent.items()
    for name, message in others:
        for key in {**expected, **message}:
            one, other = expected.get(key), message.get(key)
            if one is None or other is None or one.dtype != other.dtype:
                raise MessageError(
                    f"{where}: expected messages of equal keys and dtypes in a group, and {key} is {_said(one)} of "
                    f"{first} and {_said(other)} of {name}. Send the same keys, with zeros beside a count for what is "
                    "missing, or describe what differs, so that each layout is a group of its own."
                )
            if one.shape != other.shape and not warning and _is_stretched(one, other):
                warning = (
                    f"{where}: {key} has shape {tuple(one.shape)} of {first} and {tuple(other.shape)} of {name}; their "
                    "sum is computed without an error, since the smaller one is repeated. Send equal shapes, or "
                    "describe them, so that each layout is a group of its own."
                )
    return warning


def _said(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else str(tensor.dtype)


def _is_stretched(one: Tensor, other: Tensor) -> bool:
    try:
        torch.broadcast_shapes(one.shape, other.shape)
    except RuntimeError:
        return False
    return True


def checked_combined(found: Any, members: Collection[str], where: str) -> Combined:
    """Result of ``combine`` with own copies of its tensors and with plain numbers.

    Args:
        found: What it returned.
        members: Names of the group's members.
        where: The hook, for messages.

    Raises:
        MessageError: If it is no :class:`Combined` of finite tensors and numbers.
        RuntimeError: If a tensor is not finite.
    """
    if not isinstance(found, Combined):
        raise MessageError(f"{where}: expected a Combined, got {type(found).__name__}. Return Combined({{...}}).")
    state: Message | PerParticipant | None = None
    if isinstance(found.state, PerParticipant):
        for name in sorted(found.state.keys() - set(members), key=str):
            raise MessageError(f"{where}: {name!r} is no member of the group{did_you_mean(str(name), members)}.")
        state = PerParticipant({name: _copied(one, f"{where}, for {name}") for name, one in found.state.items()})
    elif found.state is not None:
        state = _copied(found.state, where)
    if not isinstance(found.stop, bool | Tensor) and type(found.stop).__module__ != "numpy":
        raise MessageError(f"{where}: Combined(stop=...): expected True or False, got {found.stop!r}.")
    return Combined(state, _checked_figures(found.figures, where), bool(found.stop))


def _copied(state: Any, where: str) -> dict[str, Tensor]:
    tensors = tensors_by_key(state, where)
    for key, tensor in tensors.items():
        if not is_finite([tensor]):
            raise RuntimeError(
                f"{where}: the result is not finite at {key}, though what was sent is; nobody received it. Mend "
                "combine, or lower its step."
            )
    return {key: tensor.detach().clone() for key, tensor in tensors.items()}


def _checked_figures(figures: Any, where: str) -> dict[str, list[float]]:
    where = f"{where}: Combined(figures=...)"
    if not isinstance(figures, Mapping):
        raise MessageError(f"{where}: expected numbers by name, got {type(figures).__name__}.")
    checked: dict[str, list[float]] = {}
    for key, value in figures.items():
        if str(key).partition("/")[0] in OWN_FIGURES:
            raise MessageError(f"{where}: federation/{key} is logged of each round anyway. Choose another name.")
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        try:
            if isinstance(value, str):
                raise TypeError
            checked[str(key)] = [float(one) for one in several]
        except (TypeError, ValueError, RuntimeError):
            raise MessageError(f"{where}: expected one or several numbers at {key}, got {value!r}.") from None
    return checked


def check_apart(results: Mapping[str, Collection[str]], memberships: Iterable[Sequence[str]], where: str) -> None:
    """Refuse results of two groups with a key in common, if somebody is a member of both.

    Args:
        results: Keys of each group's result.
        memberships: Groups of some participant, each combination once.
        where: The hook, for messages.

    Raises:
        MessageError: If a member would receive two tensors under one key.
    """
    for groups in memberships:
        owners: dict[str, str] = {}
        for group in groups:
            for key in results.get(group, ()):
                if (other := owners.setdefault(key, group)) != group:
                    raise MessageError(
                        f"{where}: members of both groups {other!r} and {group!r} would receive two tensors as {key}. "
                        "Give the groups' results keys of their own."
                    )
