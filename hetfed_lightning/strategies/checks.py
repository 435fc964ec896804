"""Checks, before the first step, for things that several ranks cannot do together; each error names the fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint, WeightAveraging
from torch.nn.modules.batchnorm import _BatchNorm

from hetfed_lightning.strategies.placement import share_of

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.strategies.collectives import Collectives


def check_callbacks(trainer: L.Trainer) -> None:
    """Refuse callbacks that read all participants' weights between two exchanges.

    Raises:
        MisconfigurationException: If there is one; the message says what to use instead.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # the Trainer sets it where no checker looks
        if isinstance(callback, WeightAveraging):
            raise MisconfigurationException(
                f"Trainer(callbacks=[{type(callback).__name__}(...)]) averages everyone's weights at every batch, but "
                "each of several processes trains some participants only. Use Trainer(devices=1)."
            )
        on_exception = isinstance(callback, ModelCheckpoint) and getattr(callback, "save_on_exception", False)
        if on_exception or isinstance(callback, OnExceptionCheckpoint):
            raise MisconfigurationException(
                f"{type(callback).__name__} would save on an exception, when the other processes no longer answer. Use "
                "ModelCheckpoint(every_n_epochs=1, save_last=True) with save_on_exception=False."
            )


def check_same_data(federation: FederationView, collectives: Collectives) -> None:
    """Refuse data that differs from rank to rank.

    Args:
        federation: Federation in a fit.
        collectives: Collectives between the ranks.

    Raises:
        ValueError: If a participant's or the public data differs; names the participant and the ranks.
    """
    data = federation.federated_data
    sizes = {name: (data.num_samples(name), data.source(name).batches_per_epoch) for name in federation.members()}
    sizes["the public set"] = (data.num_public, 0)
    first, *others = collectives.share(sizes)
    for rank, found in enumerate(others, start=1):
        for name, size in first.items():
            if found.get(name) != size:
                raise ValueError(
                    f"{name}: rank 0 has {size[0]} training examples in {size[1]} batches, rank {rank} has "
                    f"{found.get(name, (0, 0))[0]} in {found.get(name, (0, 0))[1]}. Every process has to load the same "
                    "data: name the seeds of what is drawn."
                )


def check_shares(federation: FederationView, replicas: int) -> None:
    """Refuse participants whose batches cannot be split.

    Args:
        federation: Federation in a fit.
        replicas: Number of ranks that split each batch.

    Raises:
        ValueError: If there is one; names the participant and what to change.
    """
    for name, participant in federation.everyone().items():
        if not participant.automatic_optimization:
            raise ValueError(
                f"{participant.label} steps its optimizers by itself (automatic_optimization = False), so gradients of "
                f"{replicas} parts of a batch cannot be added before. Use FederatedStrategy(layout='participant')."
            )
        if name not in federation.members() or not any(isinstance(one, _BatchNorm) for one in participant.modules()):
            continue
        source = federation.federated_data.source(name)
        lengths = {source.length_of(step) for step in (0, source.batches_per_epoch - 1)}
        for length in lengths:
            if any(len(share_of(length, replicas, replica)) == 1 for replica in range(replicas)):
                raise ValueError(
                    f"{participant.label}: a batch of {length} examples on {replicas} ranks leaves one of them a "
                    "single example, which its BatchNorm cannot normalise. Change batch_size, set drop_last, use "
                    "GroupNorm or FederatedStrategy(layout='participant')."
                )
