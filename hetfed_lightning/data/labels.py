"""Labels: found, read, normalised and counted.

Partitions and statistics need the labels of a data set but none of its inputs, so :func:`labels_of` looks
where data sets keep them; :func:`read_labels` goes through every sample and is for when that finds nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from hetfed_lightning.data.errors import DataError

__all__ = ["as_label", "as_targets", "class_counts", "labels_of", "read_labels", "require_class_labels"]


def as_targets(targets: Tensor) -> Tensor:
    """Targets in the dtype that losses take: integers and booleans as int64, floats as they are; the same shape."""
    return targets if targets.is_floating_point() else targets.to(torch.int64)


def as_label(label: object) -> Tensor:
    """Label of one sample as a tensor.

    Args:
        label: A Python or NumPy number, an array or a tensor; one of shape ``(1,)`` counts as a number.

    Returns:
        A tensor of shape ``()`` (or ``(C,)`` for several labels): int64, or float32 for Python floats and float64.

    Raises:
        DataError: If the label is not a number.
    """
    found = _numeric(label)
    if found is None:
        raise DataError(f"expected a label that is a number or an array of numbers, got {label!r:.80}")
    return found[0] if found.shape == (1,) else found


def labels_of(dataset: Dataset[Any]) -> Tensor | None:
    """Labels of a map-style data set without loading its samples; None where they cannot be had so.

    They are looked for under ``.targets`` and ``.labels``, and through ``Subset``, ``ConcatDataset`` and
    ``TensorDataset``. Values without one entry per sample are not taken, nor those of a data set with a
    ``target_transform``.

    Args:
        dataset: Any map-style data set.

    Returns:
        Shape ``(n,)``, or ``(n, C)`` for several labels per sample, integers as int64; integer labels of shape ``(n,
        1)`` are flattened. None where they are not found: see :func:`read_labels`.
    """
    for attribute in ("targets", "labels"):
        kept = _numeric(getattr(dataset, attribute, None))
        changed_later = getattr(dataset, "target_transform", None) is not None
        if kept is not None and not changed_later and kept.ndim and len(kept) == _length(dataset):
            return _flattened(kept)
    if isinstance(dataset, Subset):
        whole = labels_of(dataset.dataset)
        return None if whole is None else whole[torch.as_tensor(np.asarray(dataset.indices, dtype=np.int64))]
    if isinstance(dataset, ConcatDataset):
        return _concatenated([labels_of(part) for part in dataset.datasets])
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return _flattened(as_targets(dataset.tensors[1]))
    return None


def read_labels(dataset: Dataset[Any]) -> Tensor:
    """Labels of a map-style data set, read by loading every one of its samples.

    Args:
        dataset: Yields ``(input, label)``.

    Returns:
        Shape ``(n,)``, or ``(n, C)`` for several labels per sample; integers as int64.

    Raises:
        DataError: If the data set is empty or has no length, a sample is no pair, or the labels differ in kind.
    """
    length = _length(dataset)
    if not length:
        raise DataError(
            f"cannot read labels from {type(dataset).__name__}: it has no {'sample' if length == 0 else 'length'}"
        )
    labels = []
    for index in range(length):
        sample = dataset[index]
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise DataError(
                f"sample {index} of {type(dataset).__name__}: expected (input, label), got {type(sample).__name__}"
            )
        labels.append(as_label(sample[1]))
        if (labels[-1].shape, labels[-1].dtype) != (labels[0].shape, labels[0].dtype):
            raise DataError(
                f"sample {index} of {type(dataset).__name__}: its label has shape {tuple(labels[-1].shape)} "
                f"and {labels[-1].dtype}, sample 0 has {tuple(labels[0].shape)} and {labels[0].dtype}"
            )
    return torch.stack(labels)


def class_counts(targets: Tensor, num_classes: int) -> Tensor:
    """Samples of each class, shape ``(C,)``.

    Args:
        targets: Class labels, shape ``(n,)``, integers in [0, num_classes).
        num_classes: C, at least one.

    Returns:
        Counts, shape ``(C,)``, int64; zeros where ``targets`` is empty.

    Raises:
        DataError: If labels are not integers, or one lies outside [0, C).
    """
    if num_classes < 1:
        raise DataError(f"expected num_classes of at least 1, got {num_classes}")
    labels = require_class_labels(targets)
    if len(labels) and int(labels.max()) >= num_classes:
        first = int((labels >= num_classes).nonzero()[0, 0])
        raise DataError(
            f"label {int(labels[first])} at index {first} is out of range: with num_classes={num_classes} "
            f"expected 0 to {num_classes - 1}"
        )
    return torch.bincount(labels, minlength=num_classes)


def require_class_labels(labels: Tensor) -> Tensor:
    """Class labels as int64, checked.

    Args:
        labels: Shape ``(n,)``, integers or booleans, none negative.

    Returns:
        The same labels as int64.

    Raises:
        DataError: If the shape is another, the dtype is float, or a label is negative.
    """
    if labels.ndim != 1:
        raise DataError(f"expected class labels of shape (n,), one class per sample, got shape {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex():
        raise DataError(
            f"expected class labels of an integer dtype, got {labels.dtype}: values of a regression are no classes"
        )
    labels = labels.to(torch.int64)
    if len(labels) and int(labels.min()) < 0:
        first = int((labels < 0).nonzero()[0, 0])
        raise DataError(f"expected class labels of 0 or more, got {int(labels[first])} at index {first}")
    return labels


def _length(dataset: object) -> int | None:
    return len(dataset) if hasattr(dataset, "__len__") else None


def _flattened(labels: Tensor) -> Tensor:
    return labels.flatten() if labels.shape[1:] == (1,) and not labels.is_floating_point() else labels


def _concatenated(parts: list[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    alike = len({(part.shape[1:], part.dtype) for part in found}) == 1
    return torch.cat(found) if alike and len(found) == len(parts) else None


def _numeric(values: object) -> Tensor | None:
    if isinstance(values, Tensor):
        return as_targets(values.detach())
    if values is None or callable(values):
        return None
    try:
        array = np.asarray(values)
    except ValueError:  # lists of unequal length
        return None
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float16 if array.dtype == np.float16 else np.float32))
    return torch.from_numpy(array.astype(np.int64)) if array.dtype.kind in "biu" else None
