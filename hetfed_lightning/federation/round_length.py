"""Number of batches of each round in Lightning: the longest of the participants that take part.

Lightning plans a run by the length of its first epoch, so it has to be told each round's length before it begins. All
of Lightning that this changes is here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.federation_view import FederationView

log = logging.getLogger(__name__)


def expect_batches(trainer: L.Trainer, batches: int) -> int:
    """Number of batches of the round about to begin or resume, set in the Trainer.

    Progress bars, ``is_last_batch``, ``num_training_batches`` and the times of validation follow it. A resumed round is
    at least as long as its batches already trained.

    Args:
        trainer: Trainer between two rounds of a fit, its loader made.
        batches: Number of batches, at least 1.

    Returns:
        Number of batches of the round.
    """
    loop, progress = trainer.fit_loop, trainer.fit_loop.epoch_loop.batch_progress
    if loop.restarted_mid_epoch:
        done = progress.current.ready
        batches = max(batches, done if progress.is_last_batch else done + 1)
    loop.max_batches = batches
    if loop._combined_loader is not None:
        loop._combined_loader.limits = [batches]
    if loop._data_fetcher is not None:  # It has asked for the length of the first round, or of a resumed one.
        loop._data_fetcher.length = batches
    interval = trainer.val_check_interval
    by_time = getattr(trainer, "_val_check_time_interval", None) is not None  # Lightning sets it where there is one.
    if isinstance(interval, float) and not by_time:
        trainer.val_check_batch = max(1, int(batches * interval))
    elif isinstance(interval, int) and not by_time and trainer.check_val_every_n_epoch is not None:
        trainer.val_check_batch = min(interval, batches)
    return batches


def warn_of_accumulation(federation: FederationView, round_index: int) -> None:
    """Warn by name of participants that accumulate more batches than a round of theirs has.

    Args:
        federation: The federation in a fit, its loader made.
        round_index: Index of the round that opens, from 0; participants whose first round it is are checked.
    """
    loader = federation.train_loader()
    for name, participant in federation.members().items():
        wanted = participant.accumulate_grad_batches
        if participant.joins_at == round_index and wanted > 1 and 0 < loader.steps_of(name, round_index) < wanted:
            log.warning(
                "%s: accumulate_grad_batches=%d, and a round has %d of its batches: it takes one step a round, on "
                "their mean. Raise local_epochs or lower accumulate_grad_batches for more.",
                participant.label, wanted, loader.steps_of(name, round_index),
            )  # fmt: skip
