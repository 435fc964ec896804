"""Simulated federations: one labelled pool dealt out to the participants by a partition."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.labels import labels_of, read_labels
from hetfed_lightning.data.module import FederatedData, FederatedDataModule, pooled, take
from hetfed_lightning.data.partitions import Dirichlet, Partition
from hetfed_lightning.data.splits import split_own
from hetfed_lightning.seeding import stream_generator


@dataclass(frozen=True)
class Pool:
    """Labelled examples to deal out, and the test set of their source, if it has one."""

    examples: Dataset[Any]
    test: Dataset[Any] | None = None


class PartitionedDataModule(FederatedDataModule):
    """Pool dealt out: a public set and a global test set first, the rest to the participants by a partition.

    The split depends on ``seed`` alone. Each participant's share is cut into its own training, validation and test set,
    so that its *own* accuracy is measured on its own distribution; the global test set has everyone's. A subclass
    overrides :meth:`load_pool`.

    Args:
        partition: Partition of the samples; Dirichlet with alpha 0.1 if None.
        participants: Their names, or their number (``p0``, ``p1``, ...); None takes the federation's.
        public_size: Examples of the public set, drawn at random; their labels are dropped.
        test_fraction: Share of the pool for the global test set where the source brings none, in [0, 1).
        own_fractions: Each participant's training, validation and test shares; they sum to one.
        seed: Seed of the whole split.
        settings: As for :class:`FederatedDataModule`: ``batch_size``, ``num_workers`` and so on.

    Raises:
        DataError: If ``public_size`` or ``test_fraction`` is out of its range.
    """

    def __init__(
        self,
        partition: Partition | None = None,
        participants: int | list[str] | None = None,
        *,
        public_size: int = 0,
        test_fraction: float = 0.2,
        own_fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
        seed: int = 0,
        batch_size: int | dict[str, int] = 32,
        eval_batch_size: int = 512,
        num_workers: int = 0,
        drop_last: bool = False,
        resident: bool = True,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            drop_last=drop_last,
            resident=resident,
        )
        if public_size < 0:
            raise DataError(f"public_size: expected 0 or more, got {public_size}.")
        if not 0 <= test_fraction < 1:
            raise DataError(f"test_fraction: expected a share in [0, 1), got {test_fraction}.")
        self.partition = partition or Dirichlet(alpha=0.1)
        self.names = [f"p{i}" for i in range(participants)] if isinstance(participants, int) else participants
        self.public_size = public_size
        self.test_fraction = test_fraction
        self.own_fractions = own_fractions
        self.seed = seed

    @abstractmethod
    def load_pool(self) -> Pool:
        """Pool of examples to deal out; called once by :meth:`load`.

        An override returns the same examples in the same order at every call. Labels of partitions by class are
        integers of shape ``(N,)``.

        Raises:
            DataError: If the data cannot be read.
        """

    def load(self, participants: tuple[str, ...]) -> FederatedData:
        """Data sets of the pool, dealt out to the participants.

        Args:
            participants: Names of the federation's participants, used unless the module was given names.

        Raises:
            DataError: If there is no participant, or too few examples for them.
        """
        names = self.names or list(participants)
        if not names:
            raise DataError(f"{type(self).__name__}: no participants; give participants=[...] or a Federation.")
        pool = self.load_pool()
        labels = labels_of(pool.examples)
        labels = read_labels(pool.examples) if labels is None else labels
        public, test, rest = self._set_aside(labels, needs_test=pool.test is None)
        parts = {
            name: rest[dealt]
            for name, dealt in zip(names, self.partition(labels[rest], len(names), self.seed), strict=True)
        }
        own = {name: split_own(name, labels[part], self.own_fractions, self.seed) for name, part in parts.items()}
        sets = [
            {name: take(pool.examples, parts[name][split[which]]) for name, split in own.items() if len(split[which])}
            for which in range(3)
        ]
        train, val, own_test = sets
        return FederatedData(
            train, val, own_test,
            public=take(pool.examples, public) if len(public) else None,
            global_val=pooled(val) if val else None,
            global_test=pool.test if pool.test is not None else take(pool.examples, test) if len(test) else None,
        )  # fmt: skip

    def _set_aside(self, labels: Tensor, *, needs_test: bool) -> tuple[Tensor, Tensor, Tensor]:
        count = len(labels)
        tests = round(count * self.test_fraction) if needs_test else 0
        if self.public_size + tests >= count:
            raise DataError(
                f"public_size={self.public_size} and test_fraction={self.test_fraction} leave nothing of {count} "
                "examples for the participants; lower one of them."
            )
        order = shuffled(count, self.seed, "set aside")
        public, test, rest = order.split([self.public_size, tests, count - self.public_size - tests])
        return public.sort().values, test.sort().values, rest.sort().values


def shuffled(count: int, seed: int, *purpose: str) -> Tensor:
    """Permutation of ``count`` positions, shape ``(count,)``, int64, by seed and purpose alone.

    Args:
        count: Number of positions.
        seed: Seed of the split.
        purpose: Names of the random stream.
    """
    return torch.randperm(count, generator=stream_generator(seed, *purpose))
