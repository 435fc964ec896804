"""Means by class: what participants tell of their classes, and what is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from hetfed_lightning.methods.messages import Message
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.participants.participant import Participant

MEANS, COUNTS = "means", "counts"
"""Keys of messages: means by class, shape ``(C, D)``, zeros for absent classes; numbers of examples, shape ``(C,)``."""

PROTOTYPES, KNOWN = "prototypes", "known"
"""Keys of results: a vector for each class, shape ``(C, D)``; 1 for classes that have one, else 0, shape ``(C,)``."""


def check_multiclass(participant: Participant, title: str) -> None:
    """Refuse a task that is not multiclass.

    Args:
        participant: Participant of the task.
        title: Name of the method.

    Raises:
        ValueError: If it is another.
    """
    if participant.task.kind != "multiclass":
        raise ValueError(
            f"{participant.label}: {title} has a vector for each class, and its task is {participant.task.kind}: take "
            "EnsembleDistillation or BackboneAveraging."
        )


def class_means(values: Tensor, data: ParticipantData) -> dict[str, Tensor]:
    """Message with the mean of each class of a participant's own examples.

    Args:
        values: Features or outputs of its examples, shape ``(N, D)``.
        data: Its examples.
    """
    members = functional.one_hot(data.targets.long(), data.output_width).to(values)
    counts = members.sum(dim=0)
    return {MEANS: members.T @ values.flatten(1) / counts.clamp(min=1)[:, None], COUNTS: counts}


def mean_over_owners(sent: Sequence[Message], *, by_samples: bool) -> dict[str, Tensor]:
    """Result with the mean of each class over those who have it.

    Args:
        sent: Means and counts of K participants.
        by_samples: True to weigh by examples, which gives the mean of the pooled examples; False for equal weights.
    """
    counts = torch.stack([one[COUNTS] for one in sent])
    weights = counts if by_samples else (counts > 0).to(counts)
    total = weights.sum(dim=0)
    means = (torch.stack([one[MEANS] for one in sent]) * weights[..., None]).sum(dim=0)
    return {PROTOTYPES: means / total.clamp(min=torch.finfo(total.dtype).tiny)[:, None], KNOWN: (total > 0).to(total)}


def refuse_unlike(widths: Mapping[str, Sequence[int]], title: str, what: str) -> None:
    """Refuse participants whose vectors cannot be compared.

    Args:
        widths: Shape of the means by class, by participant.
        title: Name of the method.
        what: What the vectors are, such as ``"features"``.

    Raises:
        ValueError: If two differ; names both.
    """
    first = next(iter(widths), "")
    for name, own in widths.items():
        if list(own) != list(widths[first]):
            raise ValueError(
                f"{title} compares {what} of all participants: {first!r} has {widths[first][1]} for each of "
                f"{widths[first][0]} classes, {name!r} has {own[1]} for each of {own[0]}. Give their backbones one "
                "out_features and their heads one label space."
            )
