from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.splits import split_train_val_test

FRACTIONS = [
    (0.8, 0.1, 0.1),
    (1.0, 0.0, 0.0),
    (0.5, 0.0, 0.5),
    (0.05, 0.05, 0.9),
    (1 / 3, 1 / 3, 1 / 3),
    (0.998, 0.001, 0.001),
]


def test_ten_samples_by_hand() -> None:
    # 10 * (0.6, 0.2, 0.2) = 6, 2, 2
    parts = split_train_val_test(10, (0.6, 0.2, 0.2), seed=0)
    assert [len(part) for part in parts] == [6, 2, 2]
    assert all(part.dtype == torch.int64 for part in parts)


def test_stratified_by_hand() -> None:
    # 10 of class 0, 5 of class 1; (0.6, 0.2, 0.2) of each: 6, 2, 2 and 3, 1, 1
    labels = torch.tensor([0] * 10 + [1] * 5)
    parts = split_train_val_test(labels, (0.6, 0.2, 0.2), seed=0, stratify=True)
    assert [torch.bincount(labels[part]).tolist() for part in parts] == [[6, 3], [2, 1], [2, 1]]


@given(st.integers(3, 60), st.sampled_from(FRACTIONS), st.integers(0, 5), st.booleans(), st.integers(1, 7))
def test_parts_are_disjoint_cover_and_keep_their_promise(
    count: int, fractions: tuple[float, float, float], seed: int, stratify: bool, classes: int
) -> None:
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, classes, count))
    parts = split_train_val_test(labels, fractions, seed, stratify)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(count))
    for part, fraction in zip(parts, fractions, strict=True):
        assert torch.equal(part, part.sort().values)
        assert (len(part) > 0) == (fraction > 0)
        assert abs(len(part) - fraction * count) <= 2  # one for rounding, one given to or taken from an empty part


@given(st.integers(2, 6), st.integers(10, 30), st.integers(0, 5))
def test_stratified_shares_of_every_class_are_within_one_sample(classes: int, per_class: int, seed: int) -> None:
    labels = torch.arange(classes).repeat(per_class)
    parts = split_train_val_test(labels, (0.7, 0.1, 0.2), seed, stratify=True)
    for part, fraction in zip(parts, (0.7, 0.1, 0.2), strict=True):
        found = torch.bincount(labels[part], minlength=classes).double()
        assert (found - fraction * per_class).abs().max() <= 1


def test_rare_classes_do_not_all_round_to_one_part() -> None:
    labels = torch.arange(100)  # every class once
    parts = split_train_val_test(labels, (0.6, 0.2, 0.2), seed=0, stratify=True)
    assert [len(part) for part in parts] == [60, 20, 20]


def test_the_seed_alone_decides() -> None:
    first = split_train_val_test(50, (0.6, 0.2, 0.2), seed=1)
    before = torch.get_rng_state()
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002 - the global state is what must not matter
    state = torch.get_rng_state()
    second = split_train_val_test(50, (0.6, 0.2, 0.2), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(before)
    assert all(map(torch.equal, first, second))
    assert not torch.equal(first[0], split_train_val_test(50, (0.6, 0.2, 0.2), seed=2)[0])


@pytest.mark.parametrize(
    ("samples", "fractions", "seed", "stratify", "words"),
    [
        (2, (0.8, 0.1, 0.1), 0, False, r"cannot split 2 sample\(s\) into 3 parts"),
        (0, (1.0, 0.0, 0.0), 0, False, r"cannot split 0 sample\(s\) into 1 parts"),
        (9, (0.8, 0.1, 0.2), 0, False, "sum to 1, got"),
        (9, (1.2, -0.1, -0.1), 0, False, r"fractions in \[0, 1\]"),
        (9, (float("nan"), 0.5, 0.5), 0, False, r"fractions in \[0, 1\]"),
        (9, (0.5, 0.5), 0, False, "three fractions"),
        (9, (0.8, 0.1, 0.1), -1, False, "seed of 0 or more, got -1"),
        (9, (0.8, 0.1, 0.1), 0, True, "stratify needs the labels .* number 9"),
        (torch.rand(9), (0.8, 0.1, 0.1), 0, True, "integer dtype, got torch.float32"),
    ],
)
def test_impossible_splits_are_refused(
    samples: int | Tensor, fractions: tuple[float, float, float], seed: int, stratify: bool, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        split_train_val_test(samples, fractions, seed, stratify)
