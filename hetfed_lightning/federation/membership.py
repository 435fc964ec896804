"""Checkpoints of a federation with one participant added or removed; all others stay unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.local_training.local_optimization import match_by_name
from hetfed_lightning.methods.averaging.sharing_groups import SEPARATOR
from hetfed_lightning.participants.participant import STUDENT

_KEYED = ("optimizers", "schedulers", "steps", "scales", "privacy", "own")
"""Entries of a checkpoint's federation that hold something by participant."""


def members_of(checkpoint: Mapping[str, Any]) -> list[str]:
    """Names of the participants in a federation's checkpoint, without the student.

    Raises:
        ValueError: If it is not a federation's.
    """
    saved = checkpoint.get("federation")
    if saved is None:
        raise ValueError("This checkpoint was not made by a Federation.")
    return [name for name in saved["optimizers"] if name != STUDENT]


def with_member(checkpoint: Mapping[str, Any], newcomer: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Checkpoint of a federation with a participant of another run added, with its optimizer and counters.

    Args:
        checkpoint: Checkpoint of the federation that is joined.
        newcomer: Checkpoint of a federation in which the participant trained.
        name: Name of the participant.

    Raises:
        ValueError: If the federation has a participant of that name, or the other run has none.
    """
    if name in members_of(checkpoint):
        raise ValueError(f"The checkpoint has a participant {name!r} already; give the newcomer another name.")
    if name not in members_of(newcomer):
        raise ValueError(f"The newcomer's checkpoint has no participant {name!r}.")
    prefix = f"participants.{name}."
    own = {key: tensor for key, tensor in newcomer["state_dict"].items() if key.startswith(prefix)}
    saved, other = checkpoint["federation"], newcomer["federation"]
    joined = dict(checkpoint) | {"state_dict": dict(checkpoint["state_dict"]) | own}
    for key, counts in (("optimizer_states", "optimizers"), ("lr_schedulers", "schedulers")):
        joined[key] = [*checkpoint.get(key, []), *match_by_name(newcomer.get(key, []), other[counts], [name])]
    entries = {key: dict(saved.get(key, {})) | _entry(other.get(key, {}), name) for key in _KEYED}
    joined["federation"] = dict(saved) | entries
    joined["callbacks"] = {
        key: _with_group_member(state, {key.removeprefix(prefix): tensor for key, tensor in own.items()}, name)
        for key, state in checkpoint.get("callbacks", {}).items()
    }
    return joined


def without_member(checkpoint: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Checkpoint of a federation without one participant; what the shared state has learned from it stays.

    Args:
        checkpoint: Checkpoint of the federation.
        name: Name of the participant.

    Raises:
        ValueError: If there is no such participant, or no other.
    """
    members = members_of(checkpoint)
    if name not in members:
        raise ValueError(f"The checkpoint has no participant {name!r}{did_you_mean(name, members)}.")
    rest = [other for other in checkpoint["federation"]["optimizers"] if other != name]
    if members == [name]:
        raise ValueError(f"{name!r} is the only participant in the checkpoint; without it nothing is left.")
    saved = checkpoint["federation"]
    left = dict(checkpoint)
    prefix = f"participants.{name}."
    left["state_dict"] = {key: one for key, one in checkpoint["state_dict"].items() if not key.startswith(prefix)}
    for key, counts in (("optimizer_states", "optimizers"), ("lr_schedulers", "schedulers")):
        if key in checkpoint:
            left[key] = match_by_name(checkpoint[key], saved[counts], rest)
    entries = {key: {who: one for who, one in saved.get(key, {}).items() if who != name} for key in _KEYED}
    left["federation"] = dict(saved) | entries | {"in_progress": _forgotten(saved.get("in_progress", {}), name)}
    left["federation"]["metrics"] = _without_tags(saved.get("metrics", {}), name)
    left["callbacks"] = {key: _forgotten(state, name) for key, state in checkpoint.get("callbacks", {}).items()}
    return left


def _entry(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {name: found[name]} if name in found else {}


def _with_group_member(state: Any, own: Mapping[str, Any], name: str) -> Any:
    """A callback's state in which the newcomer is of each group that shares what it has, in its shapes."""
    groups = state.get("shared") if isinstance(state, dict) else None
    if not isinstance(groups, dict):
        return state
    renamed = {
        group: SEPARATOR.join([group, name])
        for group, tensors in groups.items()
        if all(key in own and own[key].shape == tensor.shape for key, tensor in tensors.items())
    }
    return {
        part: {renamed.get(group, group): one for group, one in content.items()}
        if isinstance(content, dict)
        else content
        for part, content in state.items()
    }


def _without_tags(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not (isinstance(key, str) and key.endswith(f"/{name}"))}


def _forgotten(value: Any, name: str) -> Any:
    """A state without what stands under a participant's name or tags, at any depth; groups lose it as a member."""
    if not isinstance(value, dict):
        return value
    left: dict[Any, Any] = {}
    for key, one in _without_tags(value, name).items():
        members = key.split(SEPARATOR) if isinstance(key, str) else [key]
        if name in members:
            members.remove(name)
            if len(members) < 2:
                continue
            key = SEPARATOR.join(members)  # noqa: PLW2901
        left[key] = _forgotten(one, name)
    return left
