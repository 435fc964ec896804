"""Data whose participants have names already, such as hospitals, cities or writers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.labels import labels_of
from hetfed_lightning.data.learned import refuse_mixed_columns
from hetfed_lightning.data.module import FederatedData, FederatedDataModule, pooled, take
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.data.partitioned import shuffled
from hetfed_lightning.data.splits import split_own


class NamedDataModule(FederatedDataModule):
    """Data of named participants, the examples of each cut into training, validation and test sets.

    A subclass overrides :meth:`load_participants` and, to learn something of the training rows, :meth:`prepared`.

    Args:
        own_fractions: Training, validation and test shares; they sum to one.
        stratify: True to keep the proportions of the classes in every share.
        shuffle: True to draw examples at random; False keeps time: the first are for training, the last for the test.
        public_size: Number of public examples, taken evenly from the training sets, which lose them.
        global_sets: True to pool the participants' validation and test sets for everyone; their inputs must have one
            shape.
        seed: Seed of the split.
        participants: Names of the participants to read, in this order; None for all that there are.
        settings: As for :class:`FederatedDataModule`: ``batch_size``, ``num_workers`` and so on.

    Raises:
        DataError: If ``stratify`` goes without ``shuffle``, or ``public_size`` is negative.
    """

    def __init__(
        self,
        *,
        own_fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
        stratify: bool = False,
        shuffle: bool = True,
        public_size: int = 0,
        global_sets: bool = False,
        seed: int = 0,
        participants: list[str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if stratify and not shuffle:
            raise DataError("stratify=True draws at random and cannot go with shuffle=False; choose one.")
        if public_size < 0:
            raise DataError(f"public_size: expected 0 or more, got {public_size}.")
        self.own_fractions = own_fractions
        self.stratify = stratify
        self.shuffle = shuffle
        self.public_size = public_size
        self.global_sets = global_sets
        self.seed = seed
        self.names = participants

    @abstractmethod
    def load_participants(self) -> Mapping[str, Dataset[Any]]:
        """Examples of each participant, by name, in order; called once by :meth:`load`.

        An override returns map-style data sets of ``(input, target)``, and the same at every call. It may set
        :attr:`schemas`.

        Raises:
            DataError: If the data cannot be read.
        """

    def prepared(self, name: str, dataset: Dataset[Any], trained: Tensor) -> Dataset[Any]:
        """Examples of a participant after preparation by its training rows, such as filling gaps; unchanged by default.

        Called once per participant, after the split and before it is applied. An override keeps number and order of the
        examples, and reads values of the training rows alone.

        Args:
            name: Name of the participant.
            dataset: All of its examples, N of them.
            trained: Positions of its training examples in ``dataset``, sorted, shape ``(n,)``.

        Returns:
            A data set of N examples.
        """
        del name, trained
        return dataset

    def load(self, participants: tuple[str, ...]) -> FederatedData:
        """Data sets of the participants, each cut by itself; the names are the data's own.

        Args:
            participants: Ignored.

        Raises:
            DataError: If a wanted participant has no data, or the public set would take all of one's training examples.
        """
        del participants
        everyone = self.wanted(self.load_participants())
        share = -(-self.public_size // len(everyone))
        for what, joins in (("public_size", bool(share)), ("global_sets", self.global_sets)):
            if joins:
                refuse_mixed_columns({name: one for name, one in self.schemas.items() if name in everyone}, what)
        train, val, test, public = {}, {}, {}, {}
        for name, dataset in everyone.items():
            first, second, third = self.cut(name, dataset)
            if share >= len(first):
                raise DataError(
                    f"public_size={self.public_size} takes {share} of the {len(first)} training examples of {name!r} "
                    "and leaves none; lower it."
                )
            order = first[shuffled(len(first), self.seed, "public", name)]
            trained = order[share:].sort().values
            prepared = self.prepared(name, dataset, trained)
            train[name] = take(prepared, trained)
            if share:
                public[name] = take(prepared, order[:share])
            if len(second):
                val[name] = take(prepared, second)
            if len(third):
                test[name] = take(prepared, third)
        return FederatedData(
            train,
            val,
            test,
            public=pooled(public) if public else None,
            global_val=pooled(val) if self.global_sets and val else None,
            global_test=pooled(test) if self.global_sets and test else None,
        )

    def wanted(self, found: Mapping[str, Dataset[Any]]) -> Mapping[str, Dataset[Any]]:
        """Examples of the participants that are to be read, by name, in order.

        Args:
            found: Examples of all that there are.

        Raises:
            DataError: If one has no data.
        """
        if self.names is None:
            return found
        for name in self.names:
            if name not in found:
                raise DataError(f"participants: there is no data of {name!r}{did_you_mean(name, found)}.")
        return {name: found[name] for name in self.names}

    def cut(self, name: str, dataset: Dataset[Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Positions of a participant's training, validation and test examples, three tensors ``(n,)``.

        Args:
            name: Name of the participant.
            dataset: All of its examples.

        Raises:
            DataError: If they cannot be split.
        """
        count = len(dataset)  # type: ignore[arg-type]  # torch's Dataset declares no length
        if self.shuffle or count < sum(share > 0 for share in self.own_fractions):
            labels = labels_of(dataset) if self.stratify else None
            return split_own(name, count if labels is None else labels, self.own_fractions, self.seed, self.stratify)
        ends = [round(count * sum(self.own_fractions[: i + 1])) for i in range(2)]
        first, second, third = torch.arange(count).tensor_split(ends)
        return first, second, third
