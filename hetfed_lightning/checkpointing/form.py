"""Form of a checkpoint: which entries a file must have, checked before any of them is used.

A file made by another program, or by hand, is not damaged: every byte is right. Lightning relies on the form, and fails
somewhere inside with the name of a key and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

EXTRA = "_extra_state"
"""Last part of keys for the result of ``Module.get_extra_state``, which may be anything."""

PARTS: Mapping[str, type | tuple[type, ...]] = {
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
    "state_dict": Mapping,
    "loops": Mapping,
    "callbacks": Mapping,
    "optimizer_states": list,
    "lr_schedulers": list,
    "federation": Mapping,
}
FEDERATION: Mapping[str, type] = {
    "optimizers": Mapping,
    "schedulers": Mapping,
    "steps": Mapping,
    "scales": Mapping,
    "scheduled_rounds": int,
    "in_progress": Mapping,
    "metrics": Mapping,
    "own": Mapping,
    "engines": Mapping,
    "privacy": Mapping,
    "run": Mapping,
}
OF_A_FEDERATION = ("optimizers", "schedulers", "steps", "scheduled_rounds")
"""Entries that every version has written."""
NEEDED = ("state_dict", "pytorch-lightning_version")


def form_problem(content: Any) -> str | None:
    """Reason why a file's content is no checkpoint of a Trainer, or None if it is one.

    Args:
        content: Result of ``torch.load``.
    """
    if not isinstance(content, Mapping):
        return f"expected a mapping, got {type(content).__name__}"
    for key in NEEDED:
        if key not in content:
            return f"there is no {key!r} in it"
    if ("optimizer_states" in content) != ("lr_schedulers" in content):
        return "expected 'optimizer_states' and 'lr_schedulers', got one of them"
    for key in OF_A_FEDERATION if isinstance(content.get("federation"), Mapping) else ():
        if key not in content["federation"]:
            return f"there is no 'federation.{key}' in it"
    problem = _kinds(content, PARTS, "") or _kinds(content.get("federation", {}), FEDERATION, "federation.")
    return problem or _in_state(content["state_dict"]) or _in_optimizers(content.get("optimizer_states", ()))


def _in_state(state: Mapping[Any, Any]) -> str | None:
    for key, value in state.items():
        if not isinstance(key, str):
            return f"expected text as keys of 'state_dict', got {key!r:.60}"
        if not isinstance(value, Tensor) and not key.endswith(EXTRA):
            return f"expected a tensor under 'state_dict.{key}', got {type(value).__name__}"
    return None


def _in_optimizers(states: Sequence[Any]) -> str | None:
    for place, state in enumerate(states):
        found = isinstance(state, Mapping) and isinstance(state.get("state"), Mapping)
        groups = state.get("param_groups") if found else None
        if not isinstance(groups, list):
            return f"expected 'state' and 'param_groups' under 'optimizer_states.{place}'"
        if not all(isinstance(group, Mapping) and _is_group(group) for group in groups):
            return f"expected numbers and 'params' in every part of 'optimizer_states.{place}.param_groups'"
        if not all(isinstance(one, Mapping) for one in state["state"].values()):
            return f"expected mappings in 'optimizer_states.{place}.state'"
    return None


def _is_group(group: Mapping[Any, Any]) -> bool:
    places = group.get("params")
    if not isinstance(places, list) or not all(isinstance(place, int) for place in places):
        return False
    return all(not isinstance(value, Tensor) or value.numel() == 1 for value in group.values())


def missing_part(found: Any, like: Any, where: str) -> str | None:
    """Keys of the first entry that is missing, or of another type than in ``like``; None if there is none.

    Args:
        found: A part of a checkpoint.
        like: The same part as it would be saved now.
        where: Keys that lead to the part, joined by dots.
    """
    if isinstance(like, Mapping):
        if not isinstance(found, Mapping):
            return where
        places = (missing_part(found.get(key), value, f"{where}.{key}") for key, value in like.items())
        return next((place for place in places if place is not None), None)
    return None if type(found) is type(like) else where


def _kinds(part: Mapping[Any, Any], kinds: Mapping[str, Any], prefix: str) -> str | None:
    for key, kind in kinds.items():
        if key in part and (not isinstance(part[key], kind) or isinstance(part[key], bool)):
            wanted = getattr(kind, "__name__", str(kind))
            return f"expected {wanted} under {prefix + key!r}, got {type(part[key]).__name__}"
    return None
