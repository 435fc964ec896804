from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.partitions import (
    IID,
    Dirichlet,
    Natural,
    Partition,
    Pathological,
    QuantitySkew,
    natural_partition,
)
from hetfed_lightning.data.partitions.dirichlet import dirichlet_counts
from hetfed_lightning.data.partitions.minimum import raise_to_minimum
from hetfed_lightning.data.partitions.partition import Indices
from hetfed_lightning.data.partitions.pathological import apportion


def balanced(classes: int, per_class: int) -> Tensor:
    return torch.arange(classes).repeat(per_class)


def composition(labels: Tensor, parts: list[Tensor], classes: int) -> Tensor:
    """Share of each class in each part, shape (K, C)."""
    counts = torch.stack([torch.bincount(labels[part], minlength=classes) for part in parts]).double()
    return counts / counts.sum(dim=1, keepdim=True)


# ----- IID


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 9))
def test_iid_sizes_differ_by_one_at_most(count: int, participants: int, seed: int) -> None:
    participants = min(count, participants)
    sizes = [len(part) for part in IID()(torch.zeros(count, 2), participants, seed)]
    assert max(sizes) - min(sizes) <= 1


# ----- Dirichlet


@given(
    st.floats(1e-3, 1e3),
    st.integers(1, 20),
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.integers(0, 100),
)
def test_dirichlet_covers_and_honours_the_minimum(alpha: float, participants: int, sizes: list[int], seed: int) -> None:
    labels = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
    min_size = max(1, len(labels) // (2 * participants))
    if min_size * participants > len(labels):
        return
    parts = Dirichlet(alpha, min_size)(labels, participants, seed)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(labels)))
    assert min(len(part) for part in parts) >= min_size


@pytest.mark.parametrize("seed", range(5))
def test_the_minimum_is_met_where_drawing_again_would_not_end(seed: int) -> None:
    # 20 participants and 10 classes that each go to one participant: ten of them or more start with nothing.
    labels = balanced(10, 200)
    start = time.monotonic()
    parts = Dirichlet(0.01, min_size=10)(labels, 20, seed)
    assert time.monotonic() - start < 2
    assert min(len(part) for part in parts) >= 10
    # Those who were given samples were given one class, not a mixture: half the shares are of one class alone.
    assert (composition(labels, parts, 10).max(dim=1).values > 0.99).sum() >= 10


def test_the_minimum_may_take_all_there_is() -> None:
    assert [len(part) for part in Dirichlet(0.01, min_size=10)(balanced(2, 25), 5, 0)] == [10] * 5


def test_a_large_alpha_is_nearly_iid_and_a_small_one_is_not() -> None:
    labels = balanced(10, 500)
    even = Dirichlet(1e6)(labels, 10, 0)
    assert (composition(labels, even, 10) - 0.1).abs().max() < 0.01
    assert {len(part) for part in even} <= set(range(490, 511))
    assert composition(labels, Dirichlet(0.05)(labels, 10, 0), 10).max(dim=1).values.mean() > 0.5


@pytest.mark.parametrize(("alpha", "sizes"), [(5e-324, None), (1e-300, None), (1e15, {15}), (1.7e308, {15})])
def test_the_most_extreme_alphas_still_deal_everything(alpha: float, sizes: set[int] | None) -> None:
    parts = Dirichlet(alpha, min_size=1)(balanced(3, 20), 4, 0)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(60))
    assert sizes is None or {len(part) for part in parts} == sizes


def test_the_proportions_have_the_moments_of_a_dirichlet() -> None:
    # Symmetric Dirichlet over K = 4 with alpha = 0.5: mean 1/4, variance (K - 1) / (K^2 (K alpha + 1)) = 3 / 48
    generator = np.random.default_rng(0)
    shares = np.stack([dirichlet_counts(10_000, 0.5, 4, generator) for _ in range(4000)]) / 10_000
    np.testing.assert_allclose(shares.mean(axis=0), 0.25, atol=0.015)
    np.testing.assert_allclose(shares.var(axis=0), 3 / 48, atol=0.005)


# ----- the minimum


def test_who_lacks_samples_gets_more_of_its_main_class() -> None:
    # Participant 2 has one sample, of class 1, and needs 4: the largest holder of class 1 that can spare them is
    # participant 1 (10), though participant 0 (20) is larger.
    counts = np.array([[20, 0], [0, 10], [0, 1]])
    assert raise_to_minimum(counts, 4).tolist() == [[20, 0], [0, 7], [0, 4]]


def test_who_has_nothing_gets_the_main_class_of_the_largest() -> None:
    counts = np.array([[2, 9], [4, 4], [0, 0]])
    assert raise_to_minimum(counts, 3).tolist() == [[2, 6], [4, 4], [0, 3]]


def test_the_burden_is_shared_by_equally_large_donors() -> None:
    counts = np.array([[8], [8], [0]])
    assert raise_to_minimum(counts, 4).tolist() == [[6], [6], [4]]


@given(
    st.integers(1, 8).flatmap(
        lambda classes: st.lists(
            st.lists(st.integers(0, 30), min_size=classes, max_size=classes), min_size=1, max_size=8
        )
    ),
    st.integers(1, 20),
)
def test_laws_of_the_minimum(rows: list[list[int]], min_size: int) -> None:
    counts: Indices = np.array(rows, dtype=np.int64)
    if min_size * len(counts) > counts.sum():
        return
    raised = raise_to_minimum(counts, min_size)
    before, after = counts.sum(axis=1), raised.sum(axis=1)
    assert (raised >= 0).all()
    assert (raised.sum(axis=0) == counts.sum(axis=0)).all()
    assert (after >= min_size).all()
    assert (after[before < min_size] == min_size).all()
    assert (raised[before >= min_size] <= counts[before >= min_size]).all()


# ----- Pathological


@given(
    st.integers(1, 5),
    st.integers(1, 12),
    st.lists(st.integers(12, 40), min_size=1, max_size=8),
    st.integers(0, 50),
)
def test_every_participant_has_exactly_so_many_classes(
    wanted: int, participants: int, sizes: list[int], seed: int
) -> None:
    labels = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
    if wanted > len(sizes) or participants * wanted < len(sizes):
        return
    parts = Pathological(wanted)(labels, participants, seed)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(labels)))
    assert all(len(labels[part].unique()) == wanted for part in parts)


def test_balanced_classes_give_equal_shares() -> None:
    # 10 classes of 60, 10 participants of 2 classes: 20 shards of 30 samples, so everyone has 60.
    assert {len(part) for part in Pathological(2)(balanced(10, 60), 10, 0)} == {60}


def test_participants_hold_different_pairs_of_classes() -> None:
    labels = balanced(10, 60)
    pairs = {tuple(labels[part].unique().tolist()) for part in Pathological(2)(labels, 10, 0)}
    assert len(pairs) > 5  # five, if classes went to neighbours


def test_shards_follow_the_sizes_of_the_classes() -> None:
    # One shard each, then to whoever has the largest shard: 90 -> 45 -> 30; then 40 -> 20
    assert apportion(np.array([90, 40, 10]), 6, np.array([9, 9, 9])).tolist() == [3, 2, 1]
    assert apportion(np.array([90, 40, 10]), 6, np.array([2, 9, 9])).tolist() == [2, 3, 1]


def test_too_few_samples_for_the_shards_are_refused() -> None:
    labels = torch.tensor([0] * 50 + [1])
    with pytest.raises(DataError, match=r"10 participants of 2 classes each need 20 shards.*ask for fewer"):
        Pathological(2)(labels, 10, 0)


# ----- QuantitySkew


@given(st.floats(1e-3, 1e3), st.integers(1, 20), st.integers(0, 50))
def test_sizes_are_skewed_down_to_the_minimum(alpha: float, participants: int, seed: int) -> None:
    parts = QuantitySkew(alpha, min_size=5)(torch.zeros(200), participants, seed)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(200))
    assert min(len(part) for part in parts) >= 5


def test_sizes_differ_but_classes_do_not() -> None:
    labels = balanced(4, 5000).sort().values
    parts = QuantitySkew(0.5, min_size=1000)(labels, 5, 0)
    sizes = [len(part) for part in parts]
    assert max(sizes) > 3 * min(sizes)
    assert (composition(labels, parts, 4) - 0.25).abs().max() < 0.05


# ----- natural


def test_numbered_participants_by_hand() -> None:
    parts = Natural()(torch.tensor([7, 2, 7, 4]), 3, 0)
    assert [part.tolist() for part in parts] == [[1], [3], [0, 2]]


def test_named_participants_by_hand() -> None:
    parts = natural_partition(["b", "a", "b"])
    assert {name: part.tolist() for name, part in parts.items()} == {"a": [1], "b": [0, 2]}
    assert list(parts) == ["a", "b"]


@given(st.lists(st.sampled_from(["x", "y", "z"]), min_size=1))
def test_named_participants_cover(groups: list[str]) -> None:
    parts = natural_partition(groups)
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(len(groups)))
    assert all(groups[index] == name for name, part in parts.items() for index in part.tolist())


# ----- refusals


@pytest.mark.parametrize("kind", [Dirichlet, QuantitySkew])
@pytest.mark.parametrize("alpha", [0, -1.0, float("inf"), float("nan"), "0.1"])
def test_a_bad_alpha_is_refused(kind: type[Dirichlet | QuantitySkew], alpha: float) -> None:
    with pytest.raises(DataError, match="alpha to be a finite number above 0, got"):
        kind(alpha)


@pytest.mark.parametrize("kind", [Dirichlet, QuantitySkew])
@pytest.mark.parametrize("min_size", [0, -1, 2.5])
def test_a_bad_minimum_is_refused(kind: type[Dirichlet | QuantitySkew], min_size: int) -> None:
    with pytest.raises(DataError, match="min_size to be a whole number of at least 1, got"):
        kind(1.0, min_size)


@pytest.mark.parametrize(
    ("rule", "labels", "participants", "words"),
    [
        (Dirichlet(1.0), balanced(2, 20), 5, "5 participants min_size=10 samples: that takes 50, there are 40"),
        (QuantitySkew(1.0), balanced(2, 20), 5, "min_size=10 samples: that takes 50, there are 40"),
        (Pathological(3), balanced(2, 20), 5, "there are 2; set classes_per_participant to 2 or less"),
        (Pathological(2), balanced(10, 20), 4, "classes_per_participant to 3 or more, or ask for 5 participants"),
        (Natural(), balanced(3, 5), 4, "names 3 participants, got num_participants=4"),
        (Dirichlet(1.0), torch.rand(40), 2, "integer dtype, got torch.float32"),
        (Pathological(2), torch.rand(40), 2, "integer dtype, got torch.float32"),
        (Dirichlet(1.0), torch.zeros(40, 2, dtype=torch.int64), 2, r"got shape \(40, 2\)"),
        (Dirichlet(1.0), balanced(2, 20) - 1, 2, "0 or more, got -1 at index 0"),
    ],
    ids=lambda value: repr(value) if isinstance(value, Partition) else "",
)
def test_what_cannot_be_done_is_refused(rule: Partition, labels: Tensor, participants: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        rule(labels, participants, 0)


@pytest.mark.parametrize("wanted", [0, -1, 1.5])
def test_a_bad_number_of_classes_is_refused(wanted: int) -> None:
    with pytest.raises(DataError, match="classes_per_participant to be a whole number of at least 1"):
        Pathological(wanted)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([], "at least one sample"),
        (["a", ""], r"1 sample\(s\) have no participant's name, the first at index 1"),
        (["a", float("nan")], "the first at index 1 .nan."),
        (["Ward", "ward"], "'Ward' and 'ward'"),
    ],
)
def test_bad_names_are_refused(groups: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        natural_partition(groups)


@pytest.mark.parametrize(
    ("dealt", "words"),
    [
        ([[0, 1], [1, 2]], "did not deal each of the 3 samples out exactly once"),
        ([[0], [1]], "did not deal each of the 3 samples out exactly once"),
        ([[0, 1, 2], []], r"left participants without a sample, by position: \[1\]"),
        ([[0, 1, 2]], "made 1 parts for 2 participants"),
    ],
)
def test_a_rule_of_ones_own_that_errs_is_caught(dealt: list[list[int]], words: str) -> None:
    class Faulty(Partition):
        def deal(self, labels: Tensor, num_participants: int, generator: np.random.Generator) -> list[Indices]:
            del labels, num_participants, generator
            return [np.array(part, dtype=np.int64) for part in dealt]

    with pytest.raises(DataError, match=rf"Faulty\(\) {words}"):
        Faulty()(torch.zeros(3), 2, 0)
