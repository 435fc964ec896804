"""A fit without logger, checkpoints, validation and progress."""

from __future__ import annotations

import lightning as L

from hetfed_lightning import FederatedDataModule, Federation


def fit(federation: Federation, data: FederatedDataModule, rounds: int, *callbacks: L.Callback, double: bool) -> None:
    """Train on one CPU.

    Args:
        federation: Participants.
        data: Their data.
        rounds: Number of rounds, at least 1.
        callbacks: What the participants do together.
        double: True for float64.
    """
    L.Trainer(
        max_epochs=rounds,
        accelerator="cpu",
        callbacks=list(callbacks),
        precision="64-true" if double else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    ).fit(federation, datamodule=data)
