"""Least number of samples per participant, reached by moving samples instead of drawing again.

The reference implementations of Dirichlet partitions draw again until every participant has enough, which need not end:
with 20 participants and alpha 0.01 most draws leave some participant empty. Moving always ends.
"""

from __future__ import annotations

import numpy as np

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.partitions.partition import Indices

__all__ = ["raise_to_minimum", "require_alpha", "require_min_size", "require_room"]


def raise_to_minimum(counts: Indices, min_size: int) -> Indices:
    """Counts in which every participant has at least ``min_size`` samples.

    A participant that lacks samples gets them of the class it has most of, from the largest participant with samples of
    that class to spare; failing that, from the largest participant, of that one's most frequent class. So a participant
    of few classes remains one, and none falls below ``min_size`` by giving. Nothing is random.

    Args:
        counts: Samples per participant and class, shape ``(K, C)``.
        min_size: Least number of samples per participant, with ``K * min_size`` no more than there are.

    Returns:
        New counts of the same shape with the same number of samples in every class; rows that had at least ``min_size``
        have lost at most their surplus, and gained nothing.
    """
    counts = counts.copy()
    for receiver in np.flatnonzero(counts.sum(axis=1) < min_size):
        while (lacking := min_size - int(counts[receiver].sum())) > 0:
            sizes = counts.sum(axis=1)
            donor, label = _donor(counts, sizes, int(receiver), min_size)
            # Down to the next largest only, so that one donor is not emptied while another stays large.
            others = np.delete(sizes, donor)
            lead = max(1, int(sizes[donor] - others.max()))
            moved = min(lacking, lead, int(sizes[donor]) - min_size, int(counts[donor, label]))
            counts[donor, label] -= moved
            counts[receiver, label] += moved
    return counts


def _donor(counts: Indices, sizes: Indices, receiver: int, min_size: int) -> tuple[int, int]:
    spare = np.where(sizes > min_size, sizes, 0)
    own = counts[receiver]
    for label in np.argsort(-own, kind="stable"):
        if own[label] == 0:
            break
        holders = np.where(counts[:, label] > 0, spare, 0)
        if holders.any():
            return int(holders.argmax()), int(label)
    donor = int(spare.argmax())
    return donor, int(counts[donor].argmax())


def require_alpha(alpha: float) -> float:
    """Concentration of a Dirichlet distribution, checked to be finite and above zero.

    Raises:
        DataError: If it is not.
    """
    if not (isinstance(alpha, int | float) and 0 < alpha < float("inf")):
        raise DataError(
            f"expected alpha to be a finite number above 0, got {alpha!r}: 0.1 is very unequal, 100 nearly equal"
        )
    return float(alpha)


def require_min_size(min_size: int) -> int:
    """Least number of samples, checked to be a whole number of at least one.

    Raises:
        DataError: If it is not.
    """
    if not isinstance(min_size, int) or min_size < 1:
        raise DataError(f"expected min_size to be a whole number of at least 1, got {min_size!r}")
    return min_size


def require_room(num_samples: int, num_participants: int, min_size: int) -> None:
    """Refuse a least number of samples that cannot be met.

    Args:
        num_samples: Number of samples in all.
        num_participants: K.
        min_size: Least number of samples per participant.

    Raises:
        DataError: If K times the least is more than all.
    """
    if min_size * num_participants > num_samples:
        raise DataError(
            f"cannot give each of {num_participants} participants min_size={min_size} samples: that takes "
            f"{min_size * num_participants}, there are {num_samples}; ask for fewer participants or lower "
            "min_size"
        )
