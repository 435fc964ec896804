"""Partition: a rule that deals the samples of one data set out to participants.

Partitions make *simulated* federations out of one data set. Data that comes from several institutions needs none: see
:func:`natural_partition` and the readers in ``sources``.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetfed_lightning.data.errors import DataError

__all__ = ["Indices", "Partition"]

Indices = NDArray[np.int64]
"""Positions of samples, or counts of them."""


class Partition(ABC):
    """Rule that deals samples out to participants.

    A subclass overrides :meth:`deal`; calls, checks and the order of positions are here. The same labels, number of
    participants and seed always give the same parts (with the same release of NumPy), whatever the state of the global
    random generators, which are neither read nor moved.
    """

    def __call__(self, labels: Tensor, num_participants: int, seed: int) -> list[Tensor]:
        """Positions of each participant's samples, K tensors.

        Args:
            labels: One entry per sample, N along the first dimension; partitions by class need shape ``(N,)``, integers
                of 0 or more.
            num_participants: K, from 1 to N.
            seed: Seed of this partition alone, 0 or more.

        Returns:
            K tensors of int64 positions, each sorted and with at least one entry; together they hold every position
            from 0 to N - 1 once.

        Raises:
            DataError: If K or the seed is out of range, the labels do not fit the rule, or the rule cannot be met.
        """
        num_participants = _whole("num_participants", num_participants, at_least=1)
        seed = _whole("seed", seed, at_least=0)
        if labels.ndim == 0 or len(labels) == 0:
            raise DataError(f"expected labels of at least one sample to partition, got shape {tuple(labels.shape)}")
        if num_participants > len(labels):
            raise DataError(
                f"cannot give each of {num_participants} participants a sample: there are {len(labels)}; ask for fewer"
            )
        parts = self.deal(labels.detach().cpu(), num_participants, np.random.default_rng(seed))
        self._check(parts, len(labels), num_participants)
        return [torch.from_numpy(np.sort(part).astype(np.int64)) for part in parts]

    @abstractmethod
    def deal(self, labels: Tensor, num_participants: int, generator: np.random.Generator) -> list[Indices]:
        """Positions of each participant's samples, in any order; called once for each call of the partition.

        An override draws from ``generator`` alone, and gives every sample to exactly one participant; the caller
        refuses parts that do not.

        Args:
            labels: One entry per sample, N along the first dimension, on the CPU, N of at least K.
            num_participants: K, at least 1.
            generator: The only source of randomness.

        Returns:
            K arrays of int64 positions, none empty, together every position once.

        Raises:
            DataError: If the labels do not fit the rule, or the rule cannot be met.
        """

    def __repr__(self) -> str:
        """Name of the partition with its settings."""
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"

    def _check(self, parts: list[Indices], num_samples: int, num_participants: int) -> None:
        if len(parts) != num_participants:
            raise DataError(f"{self!r} made {len(parts)} parts for {num_participants} participants")
        empty = [participant for participant, part in enumerate(parts) if len(part) == 0]
        if empty:
            raise DataError(f"{self!r} left participants without a sample, by position: {empty[:10]}")
        dealt = np.sort(np.concatenate(parts))
        if not np.array_equal(dealt, np.arange(num_samples)):
            raise DataError(f"{self!r} did not deal each of the {num_samples} samples out exactly once")


def _whole(name: str, value: int, *, at_least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = at_least - 1
    if number < at_least:
        raise DataError(f"expected {name} to be a whole number of at least {at_least}, got {value!r}")
    return number
