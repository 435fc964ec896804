from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples, class_counts, labels_of, read_labels
from hetfed_lightning.data.labels import as_label, require_class_labels


class Samples(Dataset[Any]):
    """Yields (number, label) and counts how often it is asked."""

    def __init__(self, labels: list[Any]) -> None:
        self._labels = labels
        self.reads = 0

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return float(index), self._labels[index]


class WithAttribute(Samples):
    """Keeps its labels where torchvision, MedMNIST and their kind keep them."""

    def __init__(self, labels: list[Any], name: str, kept: object) -> None:
        super().__init__(labels)
        setattr(self, name, kept)


@pytest.mark.parametrize("name", ["targets", "labels"])
@pytest.mark.parametrize(
    "kept",
    [
        [2, 0, 1],
        (2, 0, 1),
        np.array([2, 0, 1], dtype=np.uint8),
        np.array([[2], [0], [1]]),  # MedMNIST's shape
        torch.tensor([2, 0, 1], dtype=torch.int32),
        [torch.tensor(2), torch.tensor(0), torch.tensor(1)],
    ],
    ids=["list", "tuple", "array", "column", "tensor", "list of tensors"],
)
def test_labels_kept_beside_the_samples_are_found_unread(name: str, kept: object) -> None:
    dataset = WithAttribute([2, 0, 1], name, kept)
    found = labels_of(dataset)
    assert found is not None
    assert (found.tolist(), found.dtype) == ([2, 0, 1], torch.int64)
    assert dataset.reads == 0


@pytest.mark.parametrize("kept", [None, [0, 1], ["a", "b", "c"], [[0], [1, 2], [3]], 3, lambda: [0, 1, 2], object()])
def test_what_is_no_label_per_sample_is_not_taken(kept: object) -> None:
    assert labels_of(WithAttribute([0, 1, 2], "targets", kept)) is None


def test_labels_that_will_still_be_changed_are_not_taken() -> None:
    dataset = WithAttribute([9, 8], "targets", [0, 1])
    dataset.target_transform = lambda label: 9 - label  # type: ignore[attr-defined]
    assert labels_of(dataset) is None
    assert read_labels(dataset).tolist() == [9, 8]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.data())
def test_found_and_read_labels_agree_through_wrappers(labels: list[int], data: st.DataObject) -> None:
    inputs, targets = torch.zeros(len(labels), 1), torch.tensor(labels)
    indices = data.draw(st.lists(st.integers(0, len(labels) - 1), min_size=1))
    inner: Dataset[Any] = Subset(Subset(Examples(inputs, targets), range(len(labels))), indices)
    joined: Dataset[Any] = ConcatDataset([inner, TensorDataset(inputs, targets)])
    for dataset in (inner, joined):
        found = labels_of(dataset)
        assert found is not None
        assert torch.equal(found, read_labels(dataset))
    assert torch.equal(read_labels(inner), targets[indices])


def test_an_empty_subset_has_no_labels_but_is_no_error() -> None:
    found = labels_of(Subset(Examples(torch.zeros(2, 1), torch.arange(2)), []))
    assert found is not None
    assert found.shape == (0,)


def test_labels_are_not_found_where_one_part_hides_them_or_differs() -> None:
    labelled = Examples(torch.zeros(2, 1), torch.arange(2))
    assert labels_of(ConcatDataset([labelled, Samples([0, 1])])) is None
    assert labels_of(ConcatDataset([labelled, Examples(torch.zeros(2, 1), torch.rand(2))])) is None
    assert labels_of(Examples(torch.zeros(2, 1))) is None
    assert labels_of(TensorDataset(torch.zeros(2, 1))) is None


@pytest.mark.parametrize(
    ("label", "value", "dtype"),
    [
        (3, 3, torch.int64),
        (True, 1, torch.int64),
        (0.5, 0.5, torch.float32),
        (np.int8(3), 3, torch.int64),
        (np.array([3], dtype=np.uint8), 3, torch.int64),
        (torch.tensor([3], dtype=torch.int32), 3, torch.int64),
        (np.float64(0.5), 0.5, torch.float32),
        ([1, 0, 1], [1, 0, 1], torch.int64),
    ],
)
def test_a_label_of_any_kind_becomes_a_tensor(label: object, value: object, dtype: torch.dtype) -> None:
    found = as_label(label)
    assert (found.tolist(), found.dtype) == (value, dtype)


def test_unreadable_labels_are_refused_by_index() -> None:
    with pytest.raises(DataError, match="number or an array of numbers, got 'cat'"):
        read_labels(Samples(["cat"]))
    with pytest.raises(DataError, match=r"sample 1 .*shape \(2,\)"):
        read_labels(Samples([[0], [0, 1]]))
    with pytest.raises(DataError, match=r"sample 0 of Subset: expected .input, label., got float"):
        read_labels(Subset([0.5], [0]))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="Samples: it has no sample"):
        read_labels(Samples([]))

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter([])

    with pytest.raises(DataError, match="Stream: it has no length"):
        read_labels(Stream())


def test_classes_are_counted_absent_ones_too() -> None:
    assert class_counts(torch.tensor([0, 2, 2]), 4).tolist() == [1, 0, 2, 0]
    assert class_counts(torch.zeros(0, dtype=torch.int64), 2).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("targets", "num_classes", "words"),
    [
        (torch.tensor([0, 3, 1]), 3, "label 3 at index 1 is out of range.* 0 to 2"),
        (torch.tensor([0, -1]), 3, "0 or more, got -1 at index 1"),
        (torch.tensor([0.0]), 3, "integer dtype, got torch.float32"),
        (torch.tensor([[0]]), 3, r"shape \(n,\).* got shape \(1, 1\)"),
        (torch.tensor([0]), 0, "num_classes of at least 1, got 0"),
    ],
)
def test_uncountable_classes_are_refused(targets: Tensor, num_classes: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        class_counts(targets, num_classes)


def test_booleans_are_two_classes() -> None:
    assert require_class_labels(torch.tensor([True, False])).tolist() == [1, 0]
