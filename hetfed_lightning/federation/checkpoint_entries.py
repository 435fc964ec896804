"""Entries that a federation adds to a Lightning checkpoint, by participant, and the states that a file may hold."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hetfed_lightning.federation_view import FederationView
from hetfed_lightning.finite import is_finite
from hetfed_lightning.local_training.privacy_budgets import saved_accounts
from hetfed_lightning.shared_storage.copy_on_write import place_of

if TYPE_CHECKING:
    from hetfed_lightning.local_training.local_optimization import LocalOptimization
    from hetfed_lightning.participants.participant import Participant

log = logging.getLogger(__name__)


def saved_participants(local: Mapping[str, LocalOptimization], scheduled_rounds: int) -> dict[str, Any]:
    """Checkpoint entries of participants: numbers of optimizers and schedulers, step counts, loss scales, privacy.

    Args:
        local: Optimizers and schedulers of each participant, in order.
        scheduled_rounds: Number of rounds for which learning rates are scheduled.
    """
    return {
        "optimizers": {name: len(own.optimizers) for name, own in local.items()},
        "schedulers": {name: len(own.schedules) for name, own in local.items()},
        "steps": {name: own.progress for name, own in local.items()},
        "scales": {name: own.scale.state_dict() for name, own in local.items() if own.scale is not None},
        "privacy": saved_accounts(local),
        "scheduled_rounds": scheduled_rounds,
    }


def own_parts(participants: Mapping[str, Participant]) -> dict[str, dict[str, Any]]:
    """Entries that each participant's ``on_save_checkpoint`` adds, by participant."""
    parts: dict[str, dict[str, Any]] = {}
    for name, participant in participants.items():
        part: dict[str, Any] = {}
        participant.on_save_checkpoint(part)
        if part:
            parts[name] = part
    return parts


def without_poison(checkpoint: dict[str, Any], federation: FederationView) -> None:
    """Replace the state of a participant that is not finite, in a checkpoint, by its last finite state.

    Args:
        checkpoint: A checkpoint of the federation; changed in place.
        federation: The federation.

    Raises:
        RuntimeError: If a participant never had a finite state.
    """
    state = checkpoint["state_dict"]
    # A tensor that many borrow is checked once.
    distinct = {place_of(tensor): tensor for tensor in state.values() if isinstance(tensor, Tensor)}
    if is_finite(distinct.values()):
        return
    parts = states_by_participant(state, federation)
    known: dict[tuple[Any, ...], bool] = {}
    start = 0
    for name, participant in federation.everyone().items():
        prefix = f"{federation.prefix_of(name)}."
        lent = [key for key in parts[name] if participant.borrows(key) is not None]
        finite = is_finite(tensor for key, tensor in parts[name].items() if key not in lent)
        for key in lent:
            place = place_of(parts[name][key])
            if place not in known:
                known[place] = is_finite([parts[name][key]])
            finite &= known[place]
        count = len(federation.local[name].optimizers) if name in federation.local else 0
        if not finite:
            safe = federation.guard.safe_state(name)
            if safe is None:
                raise RuntimeError(f"{participant.label} has no finite state to save; nothing was written.")
            log.warning(
                "Round %d: %s is not finite; the checkpoint holds its state from the round's start.",
                federation.current_round, participant.label,
            )  # fmt: skip
            state.update({f"{prefix}{key}": tensor.clone() for key, tensor in safe.items()})
            checkpoint["federation"]["scales"].pop(name, None)
            if name in checkpoint["federation"]["in_progress"]["local"]:
                local = checkpoint["federation"]["in_progress"]["local"]
                local[name] = {key: value for key, value in local[name].items() if key != "part"}
                local[name] |= {"pending": 0, "gradients": {}}
            for saved in checkpoint.get("optimizer_states", [])[start : start + count]:
                saved["state"] = {}
        start += count


def states_by_participant(state: Mapping[str, Any], federation: FederationView) -> dict[str, dict[str, Any]]:
    """Part of a federation's state for each participant, under its own keys, found in one pass over the state.

    Args:
        state: ``state_dict`` of the federation.
        federation: The federation.
    """
    parts: dict[str, dict[str, Any]] = {name: {} for name in federation.everyone()}
    whose = {federation.prefix_of(name): name for name in parts}
    for key, value in state.items():
        # Names have no dots: "participants.NAME.key", or "student.key".
        pieces = key.split(".", 2)
        prefix = pieces[0] if pieces[0] in whose else ".".join(pieces[:2])
        if prefix in whose:
            parts[whose[prefix]][key.removeprefix(f"{prefix}.")] = value
    return parts
