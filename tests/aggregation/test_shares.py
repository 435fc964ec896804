"""What participants claim to have: no count is refused by name, a lie is bounded, everything else stays."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetfed_lightning.aggregation.shares import bounded_counts, bounded_weights, sample_count
from hetfed_lightning.distillation import ClassPriorWeighted, SampleWeighted, Teachers

counts = st.lists(st.integers(0, 10**15), min_size=1, max_size=12)


@pytest.mark.promise("size")
@pytest.mark.parametrize("claimed", [True, False, -9, -1.0, float("nan"), float("inf"), 1.5, "10", None, [3]])
def test_no_count_is_refused_by_name(claimed: Any) -> None:
    with pytest.raises(ValueError, match="participant 'b': expected a number of examples, whole and at least 0, got"):
        sample_count(claimed, "b")


@pytest.mark.parametrize("claimed", [0, 7, 7.0, np.int64(7), 10**12])
def test_counts_are_taken(claimed: Any) -> None:
    assert sample_count(claimed, "b") == claimed


@pytest.mark.parametrize(
    ("claimed", "share", "expected"),
    [
        ([1e12, 10, 20, 30], 0.5, [60, 10, 20, 30]),  # as much as all the others
        ([1e12, 1e12, 20, 30], 0.3, [37.5, 37.5, 20, 30]),  # 37.5 / 125
        ([5, 4, 1], 0.2, [1, 1, 1]),  # below one third: all alike
        ([30, 20, 10], 0.5, [30, 20, 10]),
        ([1e12, 10], 0.5, [1e12, 10]),  # one of two: nobody can tell who lies
        ([1e12, 0, 10, 0], 0.5, [1e12, 0, 10, 0]),
        ([1e12, 10, 20, 30], 1.0, [1e12, 10, 20, 30]),
    ],
)
def test_by_hand(claimed: list[float], share: float, expected: list[float]) -> None:
    found = bounded_weights(torch.tensor(claimed, dtype=torch.float64), share)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@given(counts, st.floats(0.01, 1))
def test_nobody_has_more_and_the_order_stays(claimed: list[int], share: float) -> None:
    weights = torch.tensor(claimed, dtype=torch.float64)
    found = bounded_weights(weights, share)
    assert (found <= weights).all()
    positive = int((weights > 0).sum())
    if positive >= 3:
        assert found.max() <= max(share, 1 / positive) * found.sum() * (1 + 1e-9)
    kept = found[found == weights]
    assert not len(kept) or kept.max() <= found.max()  # only the largest are lowered, and to one value
    assert len(found[found < weights].unique()) <= 1


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_no_share_is_refused(share: float) -> None:
    for make in (SampleWeighted, ClassPriorWeighted):
        with pytest.raises(ValueError, match=r"max_share: expected a fraction in \(0, 1\]"):
            make(max_share=share)


def test_counts_beyond_a_share_keep_their_classes_shares() -> None:
    counts = torch.tensor([[6.0, 2.0], [1.0, 1.0], [0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    found = bounded_counts(counts, 0.5)
    torch.testing.assert_close(found[0], torch.tensor([3.0, 1.0], dtype=torch.float64))  # 8 of 12 become 4 of 8.
    assert torch.equal(found[1:], counts[1:])


def liars(**known: Any) -> Teachers:
    """Two honest teachers that say class 0, and one that says class 1."""
    said = torch.tensor([[[4.0, -4.0]], [[4.0, -4.0]], [[-4.0, 4.0]]])
    return Teachers(said, "multiclass", ("a", "b", "liar"), **known)


@pytest.mark.promise("size")
def test_a_teacher_that_claims_a_billion_examples_is_not_the_ensemble() -> None:
    teachers = liars(samples=torch.tensor([10.0, 20.0, 1e12]))
    assert SampleWeighted()(teachers, 1.0)[0, 1] == pytest.approx(0.5, abs=1e-6)  # half, as the others together
    assert SampleWeighted(max_share=1)(teachers, 1.0)[0, 1] > 0.99


@pytest.mark.promise("size")
def test_a_teacher_that_claims_every_class_is_not_the_ensemble() -> None:
    teachers = liars(class_counts=torch.tensor([[10.0, 10.0], [5.0, 15.0], [1e12, 1e12]]))
    # Of 40 examples by the others it is believed 20 of each class: 20 / 35 and 20 / 45.
    weights = torch.tensor([20 / 35, 20 / 45])
    said = (1 - weights) * torch.tensor([4.0, -4.0]).softmax(0) + weights * torch.tensor([-4.0, 4.0]).softmax(0)
    torch.testing.assert_close(ClassPriorWeighted()(teachers, 1.0)[0], said / said.sum())
    assert ClassPriorWeighted(max_share=1)(teachers, 1.0)[0, 1] > 0.99


def test_a_teacher_without_examples_stays_without() -> None:
    teachers = liars(class_counts=torch.tensor([[10.0, 10.0], [5.0, 15.0], [0.0, 0.0]]))
    assert ClassPriorWeighted()(teachers, 1.0)[0, 0] > 0.99
