"""Samples dealt out evenly and blindly: the homogeneous case that the others are compared with."""

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
        """Return the positions of each participant's samples."""
        return list(np.array_split(generator.permutation(len(labels)), num_participants))
