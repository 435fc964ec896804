"""Entries that a federation adds to a Lightning checkpoint, by participant, and their checks when a run is resumed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from torch import Tensor

from hetfed_lightning.checkpointing.form import missing_part
from hetfed_lightning.federation_view import FederationView
from hetfed_lightning.finite import is_finite
from hetfed_lightning.local_training.local_optimization import match_by_name
from hetfed_lightning.local_training.privacy_budgets import saved_accounts
from hetfed_lightning.participants.compilation import plain_name
from hetfed_lightning.shared_storage.copy_on_write import place_of

if TYPE_CHECKING:
    import lightning as L

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


def resume_where_it_stood(checkpoint: dict[str, Any], trainer: L.Trainer) -> bool:
    """True if :func:`settle_validation` has to follow; makes Lightning resume a run where it was saved.

    Lightning's progress is changed in the checkpoint in two cases:

    - After a batch and before the validation due there: Lightning skips that validation, and after a round's last batch
      ``on_train_epoch_end`` as well. Schedulers, EarlyStopping and ensembles that weigh by validation would miss a
      round. The validation is entered as interrupted, so that it begins again.
    - After a round, with ``max_steps`` alone: Lightning takes that for a place inside the round, and counts it twice.

    Args:
        checkpoint: Checkpoint of a federation; changed in place.
        trainer: Trainer that is about to read it.

    Returns:
        True in the first of these cases.
    """
    loops = checkpoint.get("loops", {}).get("fit_loop")
    if loops is None:
        return False
    batches, rounds = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    if rounds["current"]["processed"] == rounds["current"]["ready"]:
        if trainer.max_epochs == -1:
            for counter in (rounds["total"], rounds["current"]):
                counter["completed"] = counter["processed"]
            batches["current"] |= dict.fromkeys(batches["current"], 0)
            batches["is_last_batch"] = False
            loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1  # Lightning passes the end of a batch again.
        return False
    if batches["total"]["completed"] == batches["total"]["processed"]:
        return False
    for counter in (batches["total"], batches["current"]):
        counter["completed"] = counter["processed"]
    validation = loops["epoch_loop.val_loop.batch_progress"]
    validation["total"] |= dict.fromkeys(("ready", "started"), validation["total"]["processed"] + 1)
    validation["current"] |= dict.fromkeys(validation["current"], 0)
    return True


def tell_that_nothing_was_left(trainer: L.Trainer) -> None:
    """Warn of a fit that ended before its first batch, and say which setting would let it go on.

    Args:
        trainer: Trainer at the end of that fit.
    """
    done = trainer.current_epoch
    whose = f"the checkpoint {trainer.ckpt_path}" if trainer.ckpt_path else "this Trainer"
    if 0 <= trainer.max_steps <= trainer.global_step:
        limit, more = f"max_steps={trainer.max_steps}", f"Set max_steps above {trainer.global_step}"
    elif trainer.max_epochs is not None and 0 <= trainer.max_epochs <= done:
        limit, more = f"max_epochs={trainer.max_epochs}", f"Set max_epochs above {done}"
    else:  # limit_train_batches=0, or max_time.
        log.warning("Nothing was trained: the Trainer's limits allow no batch.")
        return
    log.warning(
        "Nothing was trained: %s has %d rounds behind it (%d batches), and %s allows no more. %s to go on.",
        whose, done, trainer.global_step, limit, more,
    )  # fmt: skip


def settle_validation(trainer: L.Trainer) -> None:
    """Undo the changes of :func:`resume_where_it_stood` to counters, once Lightning has decided how to go on."""
    loop = trainer.fit_loop.epoch_loop
    validation = loop.val_loop.batch_progress.total
    validation.ready = validation.started = validation.processed  # type: ignore[attr-defined]
    if not loop._should_check_val_fx(trainer.fit_loop._data_fetcher):  # type: ignore[arg-type]
        loop._batches_that_stepped += 1


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
    saved = _by_participant(checkpoint["state_dict"], federation)
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


def check_loops(checkpoint: Mapping[str, Any], trainer: L.Trainer) -> None:
    """Refuse a checkpoint without the progress of its run, which Lightning takes for granted.

    Args:
        checkpoint: A checkpoint.
        trainer: Trainer that loads it.

    Raises:
        ValueError: If an entry is missing; names it.
    """
    if "loops" not in checkpoint:
        return  # A checkpoint of weights alone.
    told = ("progress", "epoch_loop.state_dict")
    progress = {key: value for key, value in trainer.fit_loop.state_dict().items() if key.endswith(told)}
    missing = missing_part(checkpoint["loops"], {"fit_loop": progress | {"state_dict": {}}}, "loops")
    if missing is not None:
        raise ValueError(f"The checkpoint is damaged: {missing} is missing or of another kind. Use another checkpoint.")


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


def _by_participant(state: Mapping[str, Any], federation: FederationView) -> dict[str, dict[str, Any]]:
    """Part of a federation's state for each participant, under its own keys, found in one pass over the state."""
    parts: dict[str, dict[str, Any]] = {name: {} for name in federation.everyone()}
    whose = {federation.prefix_of(name): name for name in parts}
    for key, value in state.items():
        # Names have no dots: "participants.NAME.key", or "student.key".
        pieces = key.split(".", 2)
        prefix = pieces[0] if pieces[0] in whose else ".".join(pieces[:2])
        if prefix in whose:
            parts[whose[prefix]][key.removeprefix(f"{prefix}.")] = value
    return parts


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
    parts = _by_participant(state, federation)
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
