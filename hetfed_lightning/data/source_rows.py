"""Place of each example in the source it was read of: a row of a table, a file, or an index of an array.

Splits and partitions carry it along, so that a prediction can be traced back to what it is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset, Subset

__all__ = ["SourceRows", "source_rows"]


@dataclass(frozen=True, eq=False)  # Arrays are not equal or unequal as a whole.
class SourceRows:
    """Places of N examples in their source.

    Attributes:
        column: What a place is: ``"row"`` of a table, counted from 1 below its header; ``"file"``; ``"index"``, counted
            from 0, of arrays, images in memory and data sets of one's own.
        values: The places, shape ``(N,)``.
    """

    column: str
    values: NDArray[Any]

    @classmethod
    def counted(cls, count: int) -> Self:
        """Indices from 0 to ``count - 1``."""
        return cls("index", np.arange(count))

    def take(self, indices: Any) -> SourceRows:
        """Places of some of the examples.

        Args:
            indices: Positions, shape ``(n,)``.
        """
        return SourceRows(self.column, self.values[np.asarray(indices, dtype=np.int64)])

    @classmethod
    def joined(cls, parts: Sequence[SourceRows]) -> SourceRows:
        """Places of several parts, in order; indices in the whole where the parts' places do not tell them apart.

        Args:
            parts: At least one.
        """
        values = np.concatenate([part.values for part in parts])
        alike = len({part.column for part in parts}) == 1 and len(np.unique(values)) == len(values)
        return cls(parts[0].column, values) if alike else cls.counted(len(values))


def source_rows(dataset: Dataset[Any]) -> SourceRows:
    """Place of each example of a data set, found through ``Subset``, ``ConcatDataset`` and what wraps another.

    Args:
        dataset: Any map-style data set; one with an attribute ``rows`` of this class knows its own places.
    """
    known = getattr(dataset, "rows", None)
    if isinstance(known, SourceRows):
        return known
    if isinstance(dataset, Subset):
        return source_rows(dataset.dataset).take(dataset.indices)
    if isinstance(dataset, ConcatDataset):
        return SourceRows.joined([source_rows(part) for part in dataset.datasets])
    inner = getattr(dataset, "dataset", None)
    length = len(dataset)  # type: ignore[arg-type]  # torch's Dataset declares no length
    if isinstance(inner, Dataset) and len(inner) == length:  # type: ignore[arg-type]
        return source_rows(inner)
    return SourceRows.counted(length)
