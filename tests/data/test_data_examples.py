from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, default_collate

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples


def numbered(count: int, *, labelled: bool = True) -> Examples:
    inputs = torch.arange(count * 2, dtype=torch.float32).reshape(count, 2)
    return Examples(inputs, torch.arange(count) % 3 if labelled else None)


def two_inputs(count: int) -> Examples:
    return Examples({"image": torch.zeros(count, 1, 2, 2), "genes": torch.ones(count, 5)}, torch.arange(count))


def test_an_example_is_input_and_target() -> None:
    examples = numbered(4)
    inputs, target = examples[3]
    assert len(examples) == examples.num_samples == 4
    assert torch.as_tensor(inputs).tolist() == [6.0, 7.0]
    assert torch.as_tensor(target).item() == 0  # 3 % 3


def test_an_unlabelled_example_is_its_input_alone() -> None:
    examples = numbered(4, labelled=False)
    assert torch.equal(torch.as_tensor(examples[1]), torch.tensor([2.0, 3.0]))
    assert examples.batch(torch.tensor([1, 0]))[1] is None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.bool])
def test_class_labels_become_int64(dtype: torch.dtype) -> None:
    targets = Examples(torch.zeros(2, 1), torch.tensor([0, 1]).to(dtype)).targets
    assert targets is not None
    assert targets.dtype == torch.int64
    assert targets.tolist() == [0, 1]


def test_real_targets_stay_real() -> None:
    targets = Examples(torch.zeros(2, 1), torch.tensor([0.5, 1.5])).targets
    assert targets is not None
    assert targets.dtype == torch.float32


@given(st.integers(1, 8), st.data())
def test_a_batch_is_what_collating_its_examples_gives(count: int, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=10))
    for examples in (numbered(count), two_inputs(count)):
        expected_inputs, expected_targets = default_collate([examples[index] for index in indices])
        inputs, targets = examples.batch(torch.tensor(indices))
        torch.testing.assert_close(inputs, expected_inputs, rtol=0, atol=0)
        torch.testing.assert_close(targets, expected_targets, rtol=0, atol=0)


def test_a_data_loader_takes_them() -> None:
    batches = list(DataLoader(numbered(5), batch_size=2))
    assert [len(targets) for _, targets in batches] == [2, 2, 1]


def test_a_subset_is_a_copy_in_the_wanted_order() -> None:
    examples = numbered(4)
    part = examples.subset([3, 1])
    inputs, targets = part.batch(torch.tensor([0, 1]))
    assert isinstance(inputs, torch.Tensor)
    assert isinstance(examples.inputs, torch.Tensor)
    assert inputs.tolist() == [[6.0, 7.0], [2.0, 3.0]]
    assert torch.as_tensor(targets).tolist() == [0, 1]
    examples.inputs.fill_(-1)
    assert torch.as_tensor(part.batch(torch.tensor([0]))[0]).tolist() == [[6.0, 7.0]]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_pooling_the_pieces_gives_the_whole(sizes: list[int]) -> None:
    whole = two_inputs(sum(sizes))
    starts = np.cumsum([0, *sizes])
    pieces = [whole.subset(range(a, b)) for a, b in itertools.pairwise(starts)]
    pooled = Examples.pooled(pieces)
    torch.testing.assert_close(pooled.inputs, whole.inputs, rtol=0, atol=0)
    torch.testing.assert_close(pooled.targets, whole.targets, rtol=0, atol=0)


def test_pooling_unlabelled_parts_gives_unlabelled_examples() -> None:
    pooled = Examples.pooled([numbered(2, labelled=False), numbered(3, labelled=False)])
    assert (len(pooled), pooled.targets) == (5, None)


def test_arrays_are_copied_in_single_precision() -> None:
    array = np.arange(6.0).reshape(3, 2)
    examples = Examples.from_arrays({"x": array[::-1]}, np.array([1, 2, 3], dtype=">u2"))
    array[:] = 0
    inputs, targets = examples.batch(torch.arange(3))
    assert isinstance(inputs, dict)
    assert inputs["x"].dtype == torch.float32
    assert inputs["x"].tolist() == [[4.0, 5.0], [2.0, 3.0], [0.0, 1.0]]
    assert torch.as_tensor(targets).tolist() == [1, 2, 3]


def test_examples_survive_pickling_and_say_what_they_hold() -> None:
    examples = pickle.loads(pickle.dumps(two_inputs(3)))
    assert len(examples) == 3
    assert repr(examples).startswith("Examples(3, {\"input 'image'\": ((1, 2, 2)")


def test_a_later_change_of_the_mapping_changes_nothing() -> None:
    inputs = {"x": torch.zeros(2, 1)}
    examples = Examples(inputs)
    inputs.clear()
    assert len(examples) == 2


@pytest.mark.parametrize(
    ("inputs", "targets", "words"),
    [
        (torch.zeros(3, 2), torch.zeros(2), "inputs has 3, targets has 2"),
        ({"a": torch.zeros(3), "b": torch.zeros(4)}, None, "input 'a' has 3, input 'b' has 4"),
        (torch.zeros(0, 2), None, r"at least one example, got inputs of shape \(0, 2\)"),
        (torch.tensor(1.0), None, r"at least one example, got inputs of shape \(\)"),
        ({}, None, "got an empty mapping"),
        ([1.0], None, "expected inputs to be a tensor, got list.*from_arrays"),
        ({"a": np.zeros(3)}, None, "expected input 'a' to be a tensor, got ndarray"),
        (torch.zeros(2), torch.tensor([0.0, float("nan")]), r"targets .* 1 value.* \(nan\) at index \(1,\)"),
        (
            {"ok": torch.zeros(2), "bad": torch.tensor([[0.0, 1.0], [torch.inf, -torch.inf]])},
            None,
            r"input 'bad' of shape \(2, 2\) have 2 value.* \(inf\) at index \(1, 0\)",
        ),
    ],
)
def test_bad_examples_are_refused(inputs: object, targets: torch.Tensor | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Examples(inputs, targets)  # type: ignore[arg-type]


def test_arrays_of_text_and_numbers_beyond_single_precision_are_refused() -> None:
    with pytest.raises(DataError, match="array of numbers, got dtype <U1"):
        Examples.from_arrays(np.array(["a"]))
    with pytest.raises(DataError, match="not finite"):
        Examples.from_arrays(np.array([1e300]))


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([], r"got shape \(0,\)"),
        ([0, 4], "from 0 to 3, got 4"),
        ([-1], "from 0 to 3, got -1"),
        (torch.tensor([True, False, True, True]), "got torch.bool: of a mask"),
        (torch.tensor([0.0]), "integer positions, got torch.float32"),
        (torch.tensor([[0]]), r"got shape \(1, 1\)"),
    ],
)
def test_bad_positions_are_refused(indices: torch.Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        numbered(4).subset(indices)


def test_parts_that_differ_are_not_pooled() -> None:
    wide = Examples(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError, match=r"inputs .* shape \(2,\) .* in part 0, shape \(3,\) .* in part 1"):
        Examples.pooled([numbered(2), wide])
    with pytest.raises(DataError, match="a holds inputs, targets; b holds inputs"):
        Examples.pooled({"a": numbered(2), "b": numbered(2, labelled=False)})
    with pytest.raises(DataError, match="part 1 holds input 'image', input 'genes', targets"):
        Examples.pooled([numbered(2), two_inputs(2)])
    with pytest.raises(DataError, match=r"torch.float32 in part 0, shape \(2,\) and torch.float64 in part 1"):
        Examples.pooled([numbered(2), Examples(torch.zeros(2, 2, dtype=torch.float64), torch.arange(2))])
    with pytest.raises(DataError, match="at least one part"):
        Examples.pooled([])
