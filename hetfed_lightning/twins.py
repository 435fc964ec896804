"""Equal tensors of several participants, recognised so that they are kept once.

After averaging everyone holds the same backbone: a checkpoint, a copy to return to, need it once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable

import torch
from torch import Tensor


class Twins:
    """The first of equal tensors.

    Args:
        among: How many different tensors of one key are compared with, as those of several groups that average apart.
    """

    def __init__(self, among: int = 1) -> None:
        self._among = among
        # All of them, so that none is replaced by another object of the same identity.
        self._known: dict[Hashable, list[Tensor]] = defaultdict(list)

    def of(self, key: Hashable, tensor: Tensor) -> Tensor:
        """The tensor that was first seen under a key with these values, shape, dtype and device; itself if it is new.

        One with a NaN in it has no twin.
        """
        known = self._known[key]
        for one in known[: self._among]:
            if _equal(one, tensor):
                return one
        known.append(tensor)
        return tensor


def _equal(one: Tensor, other: Tensor) -> bool:
    return (one.dtype, one.device, one.shape) == (other.dtype, other.device, other.shape) and torch.equal(one, other)
