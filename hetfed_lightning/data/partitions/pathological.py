"""Pathological label skew: every participant has samples of a fixed, small number of classes."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.partitions.class_members import deal_by_counts, shuffled_members
from hetfed_lightning.data.partitions.partition import Indices, Partition

__all__ = ["Pathological", "apportion"]


class Pathological(Partition):
    """Partition in which every participant has samples of exactly ``classes_per_participant`` classes.

    Every sample is used. Where it departs from the paper: McMahan et al. cut the samples, sorted by label, into equal
    shards and deal two to each participant; a shard that straddles two classes, or two of one class, gives some
    participants three classes or one. Here the number of a class's shards follows its share of the samples, so that no
    shard straddles; sizes of participants differ where sizes of classes do.

    Args:
        classes_per_participant: At least 1.

    Raises:
        DataError: If the setting is out of range; on use, if labels are no classes or the classes do not suffice.

    Reference:
        McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data, section 3.
    """

    def __init__(self, classes_per_participant: int = 2) -> None:
        if not isinstance(classes_per_participant, int) or classes_per_participant < 1:
            raise DataError(
                f"expected classes_per_participant to be a whole number of at least 1, got {classes_per_participant!r}"
            )
        self.classes_per_participant = classes_per_participant

    def deal(self, labels: Tensor, num_participants: int, generator: np.random.Generator) -> list[Indices]:
        """Positions of each participant's samples, in any order.

        Args:
            labels: Class labels, shape ``(N,)``, integers of 0 or more.
            num_participants: K.
            generator: Source of the order and of each participant's classes.
        """
        members = shuffled_members(labels, generator)
        sizes = np.array([len(positions) for positions in members], dtype=np.int64)
        self._refuse_impossible(sizes, num_participants)
        most = np.minimum(sizes, num_participants)
        shards = apportion(sizes, num_participants * self.classes_per_participant, most)
        counts = np.zeros((num_participants, len(members)), dtype=np.int64)
        free = np.full(num_participants, self.classes_per_participant)
        for label in generator.permutation(len(members)):
            # Giving each class to those with most room left always comes out even (Havel-Hakimi, two-sided).
            holders = np.lexsort((generator.random(num_participants), -free))[: shards[label]]
            free[holders] -= 1
            counts[holders, label] = [len(shard) for shard in np.array_split(members[label], shards[label])]
        return deal_by_counts(members, counts)

    def _refuse_impossible(self, sizes: Indices, num_participants: int) -> None:
        wanted, num_classes = self.classes_per_participant, len(sizes)
        if wanted > num_classes:
            raise DataError(
                f"cannot give {wanted} classes to each participant: there are {num_classes}; set "
                f"classes_per_participant to {num_classes} or less"
            )
        if num_participants * wanted < num_classes:
            raise DataError(
                f"{num_participants} participants of {wanted} classes each cannot cover {num_classes} "
                f"classes: set classes_per_participant to {-(-num_classes // num_participants)} or more, or "
                f"ask for {-(-num_classes // wanted)} participants or more"
            )
        if int(np.minimum(sizes, num_participants).sum()) < num_participants * wanted:
            raise DataError(
                f"{num_participants} participants of {wanted} classes each need {num_participants * wanted} "
                f"shards of at least one sample, and classes of {sizes.min()} to {sizes.max()} samples "
                "cannot be cut into that many with no participant holding a class twice: ask for fewer "
                "participants or lower classes_per_participant"
            )


def apportion(sizes: Indices, total: int, most: Indices) -> Indices:
    """Numbers of shards per class by which the largest shard is as small as possible.

    Args:
        sizes: Samples per class, shape ``(C,)``.
        total: Number of shards in all, from C to the sum of ``most``.
        most: Upper bound on the shards of each class, shape ``(C,)``, at least one each.

    Returns:
        Shards per class, shape ``(C,)``, at least one each, summing to ``total``.
    """
    shards = np.ones(len(sizes), dtype=np.int64)
    for _ in range(total - len(sizes)):
        shards[np.where(shards < most, sizes / shards, 0).argmax()] += 1
    return shards
