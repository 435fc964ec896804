"""Label skew of adjustable strength: every class spread over the participants by a Dirichlet draw."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from hetfed_lightning.data.partitions.class_members import deal_by_counts, shuffled_members
from hetfed_lightning.data.partitions.minimum import (
    raise_to_minimum,
    require_alpha,
    require_min_size,
    require_room,
)
from hetfed_lightning.data.partitions.partition import Indices, Partition

__all__ = ["Dirichlet", "dirichlet_counts"]


class Dirichlet(Partition):
    """Label skew: each class is spread over the participants in proportions drawn from a Dirichlet distribution.

    Where it departs from the papers: Yurochkin et al. draw proportions per class, as here, and draw everything again
    until each participant has 10 samples; here samples are moved instead, since drawing again need not end. Hsu et al.
    draw proportions per participant and keep all sizes equal; here sizes are skewed as well.

    Args:
        alpha: Concentration, finite and above 0: at 0.1 a participant sees a few classes, at 100 nearly all alike.
        min_size: Least number of samples per participant, at least 1.

    Raises:
        DataError: If a setting is out of range; on use, if labels are no classes or ``min_size`` cannot be met.

    Reference:
        Yurochkin et al. 2019, Bayesian Nonparametric Federated Learning of Neural Networks, section 4. Hsu, Qi, Brown
        2019, Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification, section 3.
    """

    def __init__(self, alpha: float, min_size: int = 10) -> None:
        self.alpha = require_alpha(alpha)
        self.min_size = require_min_size(min_size)

    def deal(self, labels: Tensor, num_participants: int, generator: np.random.Generator) -> list[Indices]:
        """Positions of each participant's samples, in any order.

        Args:
            labels: Class labels, shape ``(N,)``, integers of 0 or more.
            num_participants: K.
            generator: Source of the proportions and of the order.
        """
        members = shuffled_members(labels, generator)
        require_room(len(labels), num_participants, self.min_size)
        drawn = [dirichlet_counts(len(positions), self.alpha, num_participants, generator) for positions in members]
        return deal_by_counts(members, raise_to_minimum(np.stack(drawn, axis=1), self.min_size))


def dirichlet_counts(total: int, alpha: float, num_participants: int, generator: np.random.Generator) -> Indices:
    """Numbers of samples of each participant, in proportions from a Dirichlet draw.

    Args:
        total: Number of samples to share.
        alpha: Concentration, the same for all participants.
        num_participants: K.
        generator: Source of the proportions.

    Returns:
        Counts, shape ``(K,)``, summing to ``total``.
    """
    # Beyond 1e15 the shares are equal in float64 anyway, and the sum of gamma draws could overflow.
    shares = generator.dirichlet(np.full(num_participants, min(alpha, 1e15)))
    cuts = np.rint(shares.cumsum() * total).astype(np.int64)
    cuts[-1] = total
    counts: Indices = np.diff(np.minimum(cuts, total), prepend=0)
    return counts
