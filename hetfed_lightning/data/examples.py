"""Data in memory, indexed a whole batch at a time: the fast path of every built-in data set.

Indexing tensors takes a batch in tens of microseconds, where collating samples takes hundreds. Data that does
not fit in memory belongs in a map-style data set of its own (wrapped in :class:`Converted` where it yields
arrays or images).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hetfed_lightning.data.conversion import Converted, as_tensor, tensor_from_array
from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.labels import as_targets, class_counts, labels_of, read_labels
from hetfed_lightning.data.source_rows import SourceRows

__all__ = ["Converted", "Examples", "Inputs", "as_tensor", "class_counts", "labels_of", "read_labels"]

Inputs = Tensor | dict[str, Tensor]
"""Inputs of a batch or a sample: one tensor, or one per name where a sample has several."""


class Examples(Dataset[Any]):
    """Inputs and, where there are any, targets, all in memory.

    Args:
        inputs: N examples along the first dimension; one tensor, or one per name.
        targets: N targets along the first dimension; integers and booleans are kept as int64. None for unlabelled data,
            such as a public set.
        missing: True if NaN in the inputs stands for a missing value, for ``Participant(transform=...)`` to fill in.
        rows: Places of the examples in their source; None for their positions here.

    Attributes:
        inputs: The inputs, as given, shape ``(N, ...)``.
        targets: The targets, shape ``(N, ...)``, or None.
        rows: Places of the examples in their source, as given; those of a subset or a pool follow its examples.

    Raises:
        DataError: If there is no example or no input, lengths differ, a float is infinite, or one is NaN without
            ``missing``.
    """

    inputs: Inputs
    targets: Tensor | None
    rows: SourceRows | None = None

    def __init__(
        self,
        inputs: Tensor | Mapping[str, Tensor],
        targets: Tensor | None = None,
        *,
        missing: bool = False,
        rows: SourceRows | None = None,
    ) -> None:
        if isinstance(inputs, Mapping) and not inputs:
            raise DataError("expected at least one named input, got an empty mapping")
        named = _named(inputs)
        if targets is not None:
            named["targets"] = targets
        lengths = {name: _checked_length(name, values) for name, values in named.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise DataError(f"expected as many targets as inputs, one per example, got different lengths: {found}")
        for name, values in named.items():
            _refuse_non_finite(name, values, missing=missing and name != "targets")
        self.inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
        self.targets = None if targets is None else as_targets(targets)
        if rows is not None:
            if len(rows.values) != len(self):
                raise DataError(f"rows: expected a place for each of {len(self)} examples, got {len(rows.values)}")
            self.rows = rows

    @classmethod
    def from_arrays(
        cls, inputs: NDArray[Any] | Mapping[str, NDArray[Any]], targets: NDArray[Any] | None = None
    ) -> Self:
        """Examples copied from NumPy arrays, float64 as float32.

        Args:
            inputs: N examples along the first dimension; one array, or one per name.
            targets: N targets along the first dimension, or None.

        Returns:
            The examples.

        Raises:
            DataError: If an array holds something other than numbers, or the examples are not valid.
        """
        tensors: Tensor | dict[str, Tensor]
        if isinstance(inputs, Mapping):
            tensors = {key: tensor_from_array(np.asarray(values)) for key, values in inputs.items()}
        else:
            tensors = tensor_from_array(np.asarray(inputs))
        return cls(tensors, None if targets is None else tensor_from_array(np.asarray(targets)))

    @classmethod
    def pooled(cls, parts: Sequence[Examples] | Mapping[str, Examples]) -> Self:
        """All examples of several parts, in order.

        Args:
            parts: At least one; of a mapping (as of participants), messages give the names.

        Returns:
            The concatenation.

        Raises:
            DataError: If there is no part, or a part differs from the first in keys, shapes of one example, dtypes or
                in having targets.
        """
        named = dict(parts) if isinstance(parts, Mapping) else {f"part {i}": part for i, part in enumerate(parts)}
        if not named:
            raise DataError("expected at least one part to pool, got none")
        first_name, first = next(iter(named.items()))
        for name, part in named.items():
            _refuse_difference(first_name, _layout(first), name, _layout(part))
        whole = list(named.values())
        targets = None if first.targets is None else torch.cat([t for p in whole if (t := p.targets) is not None])
        inputs: Inputs
        if isinstance(first.inputs, Tensor):
            inputs = torch.cat([i for p in whole if isinstance(i := p.inputs, Tensor)])
        else:
            columns = {key: [i[key] for p in whole if isinstance(i := p.inputs, dict)] for key in first.inputs}
            inputs = {key: torch.cat(values) for key, values in columns.items()}
        made = cls._trusted(inputs, targets)
        made.rows = SourceRows.joined([part.rows or SourceRows.counted(len(part)) for part in whole])
        return made

    @property
    def num_samples(self) -> int:
        """Number of examples, N."""
        first = self.inputs if isinstance(self.inputs, Tensor) else next(iter(self.inputs.values()))
        return first.shape[0]

    @property
    def num_bytes(self) -> int:
        """Bytes of memory that inputs and targets take."""
        tensors = list(_named(self.inputs).values())
        return sum(tensor.nbytes for tensor in tensors) + (0 if self.targets is None else self.targets.nbytes)

    def __len__(self) -> int:
        """Number of examples, N."""
        return self.num_samples

    def __getitem__(self, index: int) -> tuple[Inputs, Tensor] | Inputs:
        """One example as ``(input, target)``, or its input alone where there are no targets."""
        inputs = self._inputs_at(index)
        return inputs if self.targets is None else (inputs, self.targets[index])

    def batch(self, indices: Tensor) -> tuple[Inputs, Tensor | None]:
        """Many examples at once, equal to the collated single ones.

        Args:
            indices: Positions, int64, shape ``(B,)``, or ``(K, B)`` for K batches at once.

        Returns:
            Inputs and targets, of the indices' shape and that of an example; the targets are None where there are none.
        """
        targets = None if self.targets is None else _select(self.targets, indices)
        if isinstance(self.inputs, Tensor):
            return _select(self.inputs, indices), targets
        return {key: _select(values, indices) for key, values in self.inputs.items()}, targets

    def part(self, start: int, stop: int) -> tuple[Inputs, Tensor | None]:
        """Inputs and targets of consecutive examples, as views, not to be written to.

        Args:
            start: Position of the first example.
            stop: Position after the last example.
        """
        targets = None if self.targets is None else self.targets[start:stop]
        if isinstance(self.inputs, Tensor):
            return self.inputs[start:stop], targets
        return {key: values[start:stop] for key, values in self.inputs.items()}, targets

    def subset(self, indices: Tensor | Sequence[int]) -> Self:
        """Copy of some of the examples.

        Args:
            indices: Positions in [0, N), at least one, in the wanted order; repetition is allowed.

        Returns:
            The examples at those positions.

        Raises:
            DataError: If there is no position, one lies outside [0, N), or they are not integers.
        """
        positions = torch.as_tensor(indices)
        if positions.ndim != 1 or len(positions) == 0:
            raise DataError(
                f"expected positions of shape (n,) with n of at least 1, got shape {tuple(positions.shape)}"
            )
        if positions.dtype == torch.bool or positions.is_floating_point():
            raise DataError(
                f"expected integer positions, got {positions.dtype}: of a mask, give mask.nonzero().flatten()"
            )
        low, high = int(positions.min()), int(positions.max())
        if low < 0 or high >= len(self):
            raise DataError(f"expected positions from 0 to {len(self) - 1}, got {low if low < 0 else high}")
        made = self._trusted(*self.batch(positions.to(torch.int64)))
        made.rows = (self.rows or SourceRows.counted(len(self))).take(positions.cpu())
        return made

    def __repr__(self) -> str:
        """Number of examples, and the shape and dtype of each tensor."""
        shapes = {name: (tuple(shape), str(dtype)) for name, (shape, dtype) in _layout(self).items()}
        return f"{type(self).__name__}({len(self)}, {shapes})"

    def _inputs_at(self, where: int) -> Inputs:
        if isinstance(self.inputs, Tensor):
            return self.inputs[where]
        return {key: values[where] for key, values in self.inputs.items()}

    @classmethod
    def _trusted(cls, inputs: Inputs, targets: Tensor | None) -> Self:
        # Made from checked examples: going through all values again would double the cost of a split.
        made = cls.__new__(cls)
        made.inputs, made.targets = inputs, targets
        return made


def is_plain(dataset: object) -> TypeGuard[Examples]:
    """True if a data set may be joined with others: it is in memory and has no ``batch`` of its own."""
    return isinstance(dataset, Examples) and type(dataset).batch is Examples.batch


def _named(inputs: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    return (
        {f"input {key!r}": values for key, values in inputs.items()}
        if isinstance(inputs, Mapping)
        else {"inputs": inputs}
    )


def _select(values: Tensor, indices: Tensor) -> Tensor:
    """``values[indices]`` in a third of the time: whole rows are copied."""
    return values.index_select(0, indices.flatten()).view((*indices.shape, *values.shape[1:]))


def _layout(examples: Examples) -> dict[str, tuple[torch.Size, torch.dtype]]:
    named = _named(examples.inputs)
    if examples.targets is not None:
        named["targets"] = examples.targets
    return {name: (values.shape[1:], values.dtype) for name, values in named.items()}


def _refuse_difference(
    first_name: str,
    first: dict[str, tuple[torch.Size, torch.dtype]],
    name: str,
    other: dict[str, tuple[torch.Size, torch.dtype]],
) -> None:
    if first.keys() != other.keys():
        raise DataError(f"cannot pool: {first_name} holds {', '.join(first)}; {name} holds {', '.join(other)}")
    for key, (shape, dtype) in first.items():
        if other[key] != (shape, dtype):
            found_shape, found_dtype = other[key]
            raise DataError(
                f"cannot pool: {key} of one example has shape {tuple(shape)} and {dtype} in {first_name}, "
                f"shape {tuple(found_shape)} and {found_dtype} in {name}"
            )


def _checked_length(name: str, values: Tensor) -> int:
    if not isinstance(values, Tensor):
        raise DataError(
            f"expected {name} to be a tensor, got {type(values).__name__}: of arrays, use Examples.from_arrays"
        )
    if values.ndim == 0 or len(values) == 0:
        raise DataError(f"expected at least one example, got {name} of shape {tuple(values.shape)}")
    return len(values)


def _refuse_non_finite(name: str, values: Tensor, *, missing: bool) -> None:
    if not values.is_floating_point():
        return
    bad = torch.isinf(values) if missing else ~torch.isfinite(values)
    count = int(bad.sum())
    if count:
        first = tuple(bad.nonzero()[0].tolist())
        raise DataError(
            f"{name} of shape {tuple(values.shape)} have {count} value(s) that are not finite, the first "
            f"({float(values[first])}) at index {first}: impute them or drop those examples; where NaN is a missing "
            "value that a transform fills in, say missing=True"
        )
