"""Checks of a checkpoint against the participants that load it, each of which takes its own state by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision

from hetfed_lightning.federation.checkpoint_entries import states_by_participant
from hetfed_lightning.federation_view import FederationView
from hetfed_lightning.local_training.local_optimization import match_by_name
from hetfed_lightning.participants.compilation import plain_name

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.local_training.local_optimization import LocalOptimization

log = logging.getLogger(__name__)


def restore_by_name(checkpoint: dict[str, Any], names: Sequence[str]) -> None:
    """Put optimizer and scheduler states, saved by position, into the order of ``names``.

    Args:
        checkpoint: A checkpoint of a federation; changed in place.
        names: The participants (and ``"student"``) of the federation that loads it.

    Raises:
        ValueError: If it was not made by a federation, or by one with other participants.
    """
    saved = checkpoint.get("federation")
    if saved is None:
        raise ValueError(
            "This checkpoint was not made by a Federation; expected one that Trainer.fit(federation) saved."
        )
    there = list(saved["optimizers"])
    missing = [name for name in there if name not in names]
    added = [name for name in names if name not in there]
    if missing or added:
        raise ValueError(_difference(there, missing, added))
    if there != list(names):
        log.info("The checkpoint lists its participants as %s; each takes its own state by name.", ", ".join(there))
    state = checkpoint["state_dict"]
    for key in [key for key in state if plain_name(key) != key]:  # Older files, of networks compiled by hand.
        state[plain_name(key)] = state.pop(key)
    if "optimizer_states" in checkpoint:
        checkpoint["optimizer_states"] = match_by_name(checkpoint["optimizer_states"], saved["optimizers"], names)
        checkpoint["lr_schedulers"] = match_by_name(checkpoint["lr_schedulers"], saved["schedulers"], names)


def check_architectures(checkpoint: Mapping[str, Any], federation: FederationView) -> None:
    """Refuse a checkpoint whose keys or shapes are not the participants', before any tensor is loaded.

    Args:
        checkpoint: A checkpoint of a federation.
        federation: The federation that loads it.

    Raises:
        ValueError: If one differs; names the participant, the key and both shapes.
    """
    saved = states_by_participant(checkpoint["state_dict"], federation)
    for name, participant in federation.everyone().items():
        there = {key: _shape(value) for key, value in saved[name].items()}
        here = {key: _shape(value) for key, value in participant.state_dict(keep_vars=True).items()}
        key = next((key for key in [*here, *there] if here.get(key) != there.get(key)), None)
        if key is not None:
            raise ValueError(
                f"The checkpoint is of another architecture: {participant.label} has {key} of shape "
                f"{here.get(key, 'none')}, the checkpoint of shape {there.get(key, 'none')}. Make the participant as "
                "it was when the checkpoint was saved (the run's config.yaml tells how)."
            )


def check_optimizers(saved: Sequence[Mapping[str, Any]], local: Mapping[str, LocalOptimization]) -> None:
    """Refuse optimizer states whose groups of parameters differ in size from the optimizers'.

    Args:
        saved: Optimizer states of a checkpoint, in the order of the participants; empty without any.
        local: The participants' optimizers.

    Raises:
        ValueError: If one differs; names the participant.
    """
    owners = [(name, optimizer) for name, own in local.items() for optimizer in own.optimizers]
    for (name, optimizer), state in zip(owners, saved, strict=False):
        there = [len(group["params"]) for group in state["param_groups"]]
        here = [len(group["params"]) for group in optimizer.param_groups]
        if there != here:
            raise ValueError(
                f"participant {name!r}: its optimizer has groups of {here} parameters, that of the checkpoint {there}. "
                "Make the optimizer as it was when the checkpoint was saved."
            )


def take_on_precision(federation: L.LightningModule) -> None:
    """Convert the participants to the Trainer's precision before weights are loaded into them.

    Lightning converts after loading. In ``"64-true"`` the weights of a checkpoint would pass through float32, and a
    resumed run would go on from other weights than were saved.
    """
    trainer = federation._trainer  # None where a checkpoint is loaded without a run.
    precision = None if trainer is None else trainer.precision_plugin
    if isinstance(precision, (DoublePrecision, HalfPrecision)):
        precision.convert_module(federation)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))  # `Module.get_extra_state` puts anything into a state.


def _difference(there: Sequence[str], missing: Sequence[str], added: Sequence[str]) -> str:
    parts = [f"The checkpoint is of another federation: it has {', '.join(there)}."]
    if missing:
        parts.append(f"Missing here: {', '.join(missing)}.")
    if added:
        parts.append(f"Not in it: {', '.join(added)}.")
    if len(missing) == len(added) == 1:
        parts.append(f"If {missing[0]!r} was renamed to {added[0]!r}, rename it back.")
    else:
        parts.append("Use the participants that it was made with, or start a new run without ckpt_path.")
    return " ".join(parts)
