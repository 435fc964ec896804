"""Lightning's own progress in a checkpoint: where it resumes a run, and the limits at which it trains no more."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hetfed_lightning.checkpointing.form import missing_part

if TYPE_CHECKING:
    import lightning as L

log = logging.getLogger(__name__)


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


def settle_validation(trainer: L.Trainer) -> None:
    """Undo the changes of :func:`resume_where_it_stood` to counters, once Lightning has decided how to go on."""
    loop = trainer.fit_loop.epoch_loop
    validation = loop.val_loop.batch_progress.total
    validation.ready = validation.started = validation.processed  # type: ignore[attr-defined]
    if not loop._should_check_val_fx(trainer.fit_loop._data_fetcher):  # type: ignore[arg-type]
        loop._batches_that_stepped += 1


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
