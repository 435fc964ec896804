"""Positions of the samples of each class, for partitions by class."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from hetfed_lightning.data.labels import require_class_labels
from hetfed_lightning.data.partitions.partition import Indices

__all__ = ["deal_by_counts", "members_of", "shuffled_members"]


def members_of(labels: Tensor) -> list[Indices]:
    """Positions of each class that occurs, sorted, in the order of the classes.

    Args:
        labels: Class labels, shape ``(N,)``, integers of 0 or more.

    Returns:
        One array of positions per class, none empty.

    Raises:
        DataError: If the labels are not class labels.
    """
    classes = require_class_labels(labels).numpy()
    order = np.argsort(classes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(classes[order])) + 1)


def shuffled_members(labels: Tensor, generator: np.random.Generator) -> list[Indices]:
    """Positions of each class that occurs, in the order of the classes, each class shuffled by the generator.

    Args:
        labels: Class labels, shape ``(N,)``, integers of 0 or more.
        generator: Source of the order.

    Returns:
        One array of positions per class, none empty.

    Raises:
        DataError: If the labels are not class labels.
    """
    return [generator.permutation(members) for members in members_of(labels)]


def deal_by_counts(members: list[Indices], counts: Indices) -> list[Indices]:
    """Positions of each participant's samples, by numbers per class.

    Args:
        members: C arrays of positions, one per class.
        counts: Samples per participant and class, shape ``(K, C)``; a column sums to the length of its class.

    Returns:
        K arrays of positions.
    """
    cuts = counts.cumsum(axis=0)[:-1]
    by_class = [np.split(positions, cuts[:, label]) for label, positions in enumerate(members)]
    return [np.concatenate(pieces) for pieces in zip(*by_class, strict=True)]
