"""Statistics fitted to a participant's own training data: scale of inputs and targets, class weights.

Transforms and tasks with a ``fit`` method are given all of the participant's raw training data. They see no other
participant's data and no validation or test set. Transforms are fitted once, and their statistics travel in the
participant's checkpoints. A task is fitted as every training begins; its statistics are saved with the participant for
tests, validations and exports.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from hetfed_lightning.batches import split_batch
from hetfed_lightning.data.collating import Collate, batch_of
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.layers import Fittable

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
        ValueError: If the data contradicts a participant's schema, or gaps of a DP-SGD participant would be filled with
            means without noise; names the participant.
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


def warn_of_unfitted(participants: Mapping[str, Participant]) -> None:
    """Warn by name of participants whose loss is measured with a task that has not been fitted."""
    wanting = [name for name, one in participants.items() if one.task.learned() is None]
    if wanting:
        log.warning(
            "The loss of %s is measured without the class weights of its training data: they are not known. "
            "Checkpoints of older versions do not have them; a fit learns them, and saves them.",
            ", ".join(f"participant {name!r}" for name in wanting),
        )


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
