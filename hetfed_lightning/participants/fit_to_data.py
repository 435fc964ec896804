"""Statistics fitted to a participant's own training data: scale of inputs and targets, class weights.

Transforms and tasks with a ``fit`` method are given all of the participant's raw training data. They see no other
participant's data and no validation or test set. Transforms are fitted once, and their statistics travel in the
participant's checkpoints. A task is fitted as every training begins; its statistics are saved with the participant for
tests, validations and exports. So are the class shares that ``own_prior`` weighs, which are counted in every fit.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hetfed_lightning.batches import split_batch
from hetfed_lightning.data.collating import Collate, batch_of
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.layers import Fittable
from hetfed_lightning.participants.first_batch import first_batch, outputs_of
from hetfed_lightning.participants.own_prior import class_shares
from hetfed_lightning.participants.participant import output_width

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.utils.data import Dataset

    from hetfed_lightning.data.module import FederatedDataModule
    from hetfed_lightning.participants.participant import Participant

log = logging.getLogger(__name__)


def take_up_schemas(participants: Mapping[str, Participant], data: FederatedDataModule) -> None:
    """Read the data by the schemas of trained participants, and give new participants the schema of their data.

    Args:
        participants: Participants by name.
        data: Data module of the run.

    Raises:
        ValueError: If the data contradicts a participant's schema, gaps of a DP-SGD participant would be filled with
            means without noise, or a table's gaps would reach a network; names the participant.
    """
    known = {name: one.schema for name, one in participants.items() if one.schema is not None}
    data.read_as_learned(known)
    for name, participant in participants.items():
        participant.schema = data.schemas.get(name, participant.schema)
        if participant.privacy is not None and participant.schema is not None and participant.schema.fillings:
            raise ValueError(
                f"{participant.label}: privacy=DPSGD(...) and missing='mean': the means that fill gaps are of its "
                "training rows, without noise. Set missing='drop', or fill the gaps with constants known beforehand."
            )
        _refuse_gaps(participant, data.data.train.get(name))


def _refuse_gaps(participant: Participant, dataset: object) -> None:
    """Refuse a table's gaps that no transform fills."""
    if participant.schema is None or not participant.schema.columns or participant.transform is not None:
        return
    inputs = dataset.inputs if isinstance(dataset, Examples) else None
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        return
    rows = torch.isnan(inputs).any(1)
    if bool(rows.any()):
        raise ValueError(
            f"{participant.label}: {int(rows.sum())} of its {len(rows)} training rows have missing values, which "
            "missing='keep' leaves to its transform, and it has none. Give it Participant(transform=Standardise("
            f"{inputs.shape[1]}, fill_missing=True)), or set missing='mean' or 'drop'."
        )


def fit_to_own_data(participant: Participant, dataset: Dataset[Any], collate_fn: Collate | None = None) -> None:
    """Fit a participant's transforms and task to its training set.

    Args:
        participant: Participant whose transforms and task are fitted.
        dataset: Its training set; read sample by sample if it is not in memory.
        collate_fn: Makes a batch of samples; torch's default if None.

    Raises:
        ValueError: If a fit fails; names the participant.
    """
    wanting: list[tuple[int, Fittable]] = []
    for what, transform in enumerate((participant.transform, participant.target_transform)):
        if isinstance(transform, Fittable) and not transform.is_fitted:
            wanting.append((what, transform))
    if not wanting and not participant.task.wants_fit:
        return
    everything = everything_of(dataset, collate_fn, participant.label)
    try:
        for what, fittable in wanting:
            fittable.fit(everything[what])
        if participant.task.wants_fit:
            participant.task.fit(everything[1])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{participant.label}: cannot be fitted to its training set: {error}") from error


def take_class_shares(participants: Mapping[str, Participant], data: FederatedDataModule) -> None:
    """Count the classes of each participant with ``own_prior`` in its training set.

    Args:
        participants: Participants by name, whose data has been checked.
        data: Data module of the run.

    Raises:
        ValueError: If its task does not count classes, or its batches are no pairs of inputs and target; names the
            participant.
    """
    for name, participant in participants.items():
        if not participant.own_prior:
            continue
        source = data.source(name)
        inputs, target = split_batch(first_batch(source.dataset, collate_fn=data.collate_fn))
        counts = None
        if target is not None:
            width = output_width(outputs_of(participant, inputs, "its training data"))
            counts = participant.task.class_counts(data.train_targets(name), width)
        if counts is None:
            raise ValueError(
                f"{participant.label}: own_prior={participant.own_prior} weighs its class shares, and "
                f"{type(participant.task).__name__} counts no classes of its batches. Leave own_prior out, or give the "
                "task class_counts."
            )
        participant.class_shares = class_shares(counts, source.num_samples, participant.task.kind)


def warn_without_shares(participants: Mapping[str, Participant]) -> None:
    """Warn by name of participants that answer for their own data without the class shares ``own_prior`` weighs."""
    wanting = [name for name, one in participants.items() if one.own_prior and one.class_shares is None]
    if wanting:
        log.warning(
            "Answers of %s for own data are those for everyone's: own_prior weighs the class shares of its training "
            "data, and they are not known. Checkpoints of runs without own_prior do not have them; a fit counts them, "
            "and saves them.",
            ", ".join(f"participant {name!r}" for name in wanting),
        )


def warn_of_unfitted(participants: Mapping[str, Participant]) -> None:
    """Warn by name of participants whose task has not been fitted, and of those that lack class shares."""
    wanting = [name for name, one in participants.items() if one.task.learned() is None]
    if wanting:
        log.warning(
            "The loss of %s is measured without the class weights of its training data: they are not known. "
            "Checkpoints of older versions do not have them; a fit learns them, and saves them.",
            ", ".join(f"participant {name!r}" for name in wanting),
        )
    warn_without_shares(participants)


def everything_of(
    dataset: Dataset[Any], collate_fn: Collate | None = None, owner: str = "a data set"
) -> tuple[Any, Any]:
    """All inputs and all targets of a data set, each as one batch of N examples.

    Args:
        dataset: Data set with at least one example.
        collate_fn: Makes a batch of samples; torch's default if None.
        owner: Owner of the data set in error messages.
    """
    if isinstance(dataset, Examples):
        return dataset.inputs, dataset.targets
    return split_batch(batch_of(dataset, range(len(dataset)), collate_fn, owner))  # type: ignore[arg-type]
