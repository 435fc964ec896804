"""Transfer of participants between ranks: states after a round, all that moves to a new host, parts of checkpoints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hetfed_lightning.local_training.local_optimization import match_by_name
from hetfed_lightning.strategies.packing import cloned

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.participants.participant import Participant
    from hetfed_lightning.strategies.collectives import Collectives
    from hetfed_lightning.strategies.placement import Placement


def round_state(federation: FederationView, name: str) -> dict[str, Any]:
    """State of a participant after its steps, as all ranks need it.

    Momenta stay on their rank. Learning rates travel, since they are logged, as do schedulers that step with the
    optimizer.

    Args:
        federation: Federation in a fit.
        name: The participant.

    Returns:
        Its state, step counts, schedulers and settings of parameter groups; tensors have their parameters' shapes.
    """
    local = federation.local[name]
    return {
        "state": federation[name].state_dict(),
        "landed": local.landed,
        "rates": local.rates,
        "skipped": local.skipped,
        "steps": local.progress,
        "schedules": [one.scheduler.state_dict() for one in local.schedules if one.interval == "step"],
        "groups": [
            [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
            for optimizer in local.optimizers
        ],
    }


def load_round_state(federation: FederationView, name: str, found: dict[str, Any]) -> None:
    """Set this rank's copy of a participant to its host's.

    Args:
        federation: Federation in a fit.
        name: The participant.
        found: Its host's :func:`round_state`.
    """
    local = federation.local[name]
    _load_state(federation[name], found["state"])
    local.go_on_from(found["steps"])
    local.landed, local.skipped, local.rates = found["landed"], found["skipped"], found["rates"]
    by_step = [one.scheduler for one in local.schedules if one.interval == "step"]
    for scheduler, state in zip(by_step, found["schedules"], strict=True):
        scheduler.load_state_dict(cloned(state))
    for optimizer, groups in zip(local.optimizers, found["groups"], strict=True):
        for group, settings in zip(optimizer.param_groups, groups, strict=True):
            group.update(cloned(settings))


def moved_state(federation: FederationView, name: str) -> dict[str, Any]:
    """Everything that moves with a participant to a new host.

    Args:
        federation: Federation in a fit.
        name: The participant.

    Returns:
        State, optimizers, schedulers and the participant's own checkpoint entries; tensors keep their shapes.
    """
    local, own = federation.local[name], dict[str, Any]()
    federation[name].on_save_checkpoint(own)
    return {
        "state": federation[name].state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in local.optimizers],
        "schedules": [one.scheduler.state_dict() for one in local.schedules],
        "own": own,
    }


def load_moved_state(federation: FederationView, name: str, found: dict[str, Any]) -> None:
    """Make this rank the host of a participant.

    Args:
        federation: Federation in a fit.
        name: The participant.
        found: Its :func:`moved_state`, from the host of before.
    """
    local = federation.local[name]
    _load_state(federation[name], found["state"])
    for optimizer, state in zip(local.optimizers, found["optimizers"], strict=True):
        optimizer.load_state_dict(cloned(state))
    for schedule, state in zip(local.schedules, found["schedules"], strict=True):
        schedule.scheduler.load_state_dict(cloned(state))
    if found["own"]:
        federation[name].on_load_checkpoint(cloned(found["own"]))


def forget_optimizers(federation: FederationView, names: Sequence[str]) -> None:
    """Free momenta and gradients of participants that other ranks train.

    Args:
        federation: Federation in a fit.
        names: The participants.
    """
    for name in names:
        for optimizer in federation.local[name].optimizers:
            optimizer.state = defaultdict(dict)
            optimizer.zero_grad()


def complete_checkpoint(
    checkpoint: dict[str, Any], federation: FederationView, collectives: Collectives, placement: Placement
) -> None:
    """Add states, optimizers and counters of other ranks' participants to rank 0's checkpoint.

    Args:
        checkpoint: Checkpoint of this rank; changed in place on rank 0.
        federation: Federation in a fit.
        collectives: Collectives between the ranks.
        placement: The present placement.
    """
    saved = checkpoint["federation"]
    hosted = placement.hosted_by(collectives.rank)
    mine: dict[str, Any] = {
        "round": {
            name: saved["in_progress"]["local"][name] for name in hosted if name in saved["in_progress"]["local"]
        },
        "ledger": saved["in_progress"]["ledger"],
        "whole": {},
    }
    for name in hosted:
        if placement.owner_of(name) == collectives.rank:
            mine["whole"][name] = {
                "state": federation[name].state_dict(),
                "steps": saved["steps"].get(name),
                "own": saved["own"].get(name),
                "optimizers": match_by_name(checkpoint.get("optimizer_states", []), saved["optimizers"], [name]),
                "schedules": match_by_name(checkpoint.get("lr_schedulers", []), saved["schedulers"], [name]),
            }
    parts = collectives.collect(mine)
    if parts is None:
        return
    whole = {name: found for part in parts for name, found in part["whole"].items()}
    for name, found in whole.items():
        prefix = federation.prefix_of(name)
        checkpoint["state_dict"].update({f"{prefix}.{key}": value for key, value in found["state"].items()})
        if found["steps"] is not None:
            saved["steps"][name] = found["steps"]
        if found["own"] is not None:
            saved["own"][name] = found["own"]
    for key, counts, kind in (
        ("optimizer_states", "optimizers", "optimizers"),
        ("lr_schedulers", "schedulers", "schedules"),
    ):
        if key in checkpoint:
            checkpoint[key] = [state for name in saved[counts] for state in whole[name][kind]]
    saved["in_progress"]["local"].update(_summed([part["round"] for part in parts]))
    saved["in_progress"]["ledger"] = _joined([part["ledger"] for part in parts])


def _summed(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Progress of participants in the round; gradients that wait for an accumulation are summed over replicas."""
    found: dict[str, Any] = {}
    for part in parts:
        for name, state in part.items():
            gradients = found.get(name, {}).get("gradients", {})
            together = dict(gradients)
            for key, gradient in state["gradients"].items():
                together[key] = gradient + gradients[key] if key in gradients else gradient
            found[name] = {**state, "gradients": together}
    return found


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Notes of all ranks, those under one key by rank."""
    found: dict[str, Any] = {}
    for part in parts:
        for key, notes in part.items():
            if key in found:
                values = torch.cat([found[key]["values"], notes["values"]])
                found[key] = {**notes, "values": values, "weights": [*found[key]["weights"], *notes["weights"]]}
            else:
                found[key] = notes
    return found


def _load_state(participant: Participant, state: dict[str, Any]) -> None:
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if len(tensors) == len(state):
        participant.load_state_of(tensors)
    else:  # A module's `get_extra_state` puts anything into a state.
        participant.load_state_dict(cloned(state))
