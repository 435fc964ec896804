"""Independent and identically distributed shares: the homogeneous case that other partitions are compared with."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from hetfed_lightning.data.partitions.partition import Indices, Partition

__all__ = ["IID"]


class IID(Partition):
    """Equal shares of the shuffled samples; sizes differ by one at most. Labels may be of any kind.

    Reference:
        McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data,
        section 3.
    """

    def deal(self, labels: Tensor, num_participants: int, generator: np.random.Generator) -> list[Indices]:
        """Positions of each participant's samples, in any order.

        Args:
            labels: One entry per sample, N along the first dimension; values are unused.
            num_participants: K.
            generator: Source of the order.
        """
        return list(np.array_split(generator.permutation(len(labels)), num_participants))
