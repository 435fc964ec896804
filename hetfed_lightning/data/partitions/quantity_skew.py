"""Quantity skew: participants have different numbers of samples of the same distribution."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from hetfed_lightning.data.partitions.dirichlet import dirichlet_counts
from hetfed_lightning.data.partitions.minimum import (
    raise_to_minimum,
    require_alpha,
    require_min_size,
    require_room,
)
from hetfed_lightning.data.partitions.partition import Indices, Partition

__all__ = ["QuantitySkew"]


class QuantitySkew(Partition):
    """Sizes in proportions drawn from a Dirichlet distribution; labels, of any kind, play no part.

    Where it departs from the paper: a participant with fewer than ``min_size`` samples is given some of the largest
    participants'.

    Args:
        alpha: Concentration, finite and above 0: at 0.5 a few participants hold most of the data.
        min_size: Least number of samples per participant, at least 1.

    Raises:
        DataError: If a setting is out of range; on use, if ``min_size`` cannot be met.

    Reference:
        Li, Diao, Chen, He 2022, Federated Learning on Non-IID Data Silos: An Experimental Study, section IV-C.
    """

    def __init__(self, alpha: float, min_size: int = 10) -> None:
        self.alpha = require_alpha(alpha)
        self.min_size = require_min_size(min_size)

    def deal(self, labels: Tensor, num_participants: int, generator: np.random.Generator) -> list[Indices]:
        """Positions of each participant's samples, in any order.

        Args:
            labels: One entry per sample, N along the first dimension; values are unused.
            num_participants: K.
            generator: Source of the sizes and of the order.
        """
        require_room(len(labels), num_participants, self.min_size)
        drawn = dirichlet_counts(len(labels), self.alpha, num_participants, generator)
        sizes = raise_to_minimum(drawn[:, None], self.min_size)[:, 0]
        return np.split(generator.permutation(len(labels)), sizes.cumsum()[:-1])
