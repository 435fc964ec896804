import math
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hetfed_lightning.aggregation import weighted_mean

VALUES = st.floats(-1e6, 1e6, width=32)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[list[float]], list[float]]:
    """K rows of M values, and K weights of which one at least is positive."""
    participants, size = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    rows = [[draw(VALUES) for _ in range(size)] for _ in range(participants)]
    weights = [draw(st.floats(0, 1e6)) for _ in range(participants)]
    return rows, [*weights[:-1], max(weights[-1], 1e-3)]


def mean_of(rows: list[list[float]], weights: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
    states = [{"w": torch.tensor(row, dtype=dtype)} for row in rows]
    return weighted_mean(states, torch.tensor(weights, dtype=torch.float64))["w"]


def test_by_hand() -> None:
    # (1 * [0, 4] + 3 * [4, 8]) / 4 = [3, 7]
    assert mean_of([[0.0, 4.0], [4.0, 8.0]], [1, 3]).tolist() == [3.0, 7.0]


@given(tables())
def test_agrees_with_numpy(table: tuple[list[list[float]], list[float]]) -> None:
    rows, weights = table
    expected = np.average(np.array(rows, dtype=np.float64), axis=0, weights=np.array(weights))
    np.testing.assert_allclose(mean_of(rows, weights, torch.float64).numpy(), expected, rtol=1e-12, atol=1e-8)


@given(tables(), st.randoms(use_true_random=False))
def test_does_not_depend_on_the_order(table: tuple[list[list[float]], list[float]], random: Random) -> None:
    rows, weights = table
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled = mean_of([rows[k] for k in order], [weights[k] for k in order])
    torch.testing.assert_close(shuffled, mean_of(rows, weights), rtol=1e-6, atol=1e-8)


@given(tables())
def test_lies_between_the_smallest_and_the_largest(table: tuple[list[list[float]], list[float]]) -> None:
    rows, weights = table
    heard = torch.tensor([row for row, weight in zip(rows, weights, strict=True) if weight > 0])
    slack = 1e-6 * heard.abs().amax()
    mean = mean_of(rows, weights)
    assert bool((mean >= heard.amin(dim=0) - slack).all())
    assert bool((mean <= heard.amax(dim=0) + slack).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@given(
    row=st.lists(VALUES, min_size=1, max_size=5),
    weights=st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=9),
)
def test_equal_states_come_back_exactly(dtype: torch.dtype, row: list[float], weights: list[float]) -> None:
    finite = torch.finfo(dtype).max
    row = [max(-finite, min(finite, value / 3)) for value in row]
    mean = mean_of([row] * len(weights), weights, dtype)
    assert torch.equal(mean, torch.tensor(row, dtype=dtype))


def test_weights_count_by_their_ratio_even_if_their_sum_overflows() -> None:
    rows = [[1.0, 2.0], [5.0, -3.0]]
    assert torch.equal(mean_of(rows, [1, 3]), mean_of(rows, [0.5e308, 1.5e308]))


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_participant_of_weight_zero_has_no_influence(poison: float, place: int) -> None:
    rows, weights = [[2.0], [4.0]], [1.0, 1.0]
    rows.insert(place, [poison])
    weights.insert(place, 0.0)
    assert mean_of(rows, weights).item() == 3.0


def test_counters_take_the_maximum_of_those_who_count() -> None:
    states = [
        {"steps": torch.tensor(7), "seen": torch.tensor([True, False])},
        {"steps": torch.tensor(10), "seen": torch.tensor([False, False])},
        {"steps": torch.tensor(99), "seen": torch.tensor([True, True])},
    ]
    mean = weighted_mean(states, torch.tensor([1, 1, 0]))
    assert mean["steps"].dtype == torch.int64
    assert mean["steps"].item() == 10
    assert mean["seen"].tolist() == [True, False]


def test_a_large_integer_keeps_its_last_digit() -> None:
    # 2^53 + 1 has no float64.
    states = [{"steps": torch.tensor(2**53 + 1)}, {"steps": torch.tensor(3)}]
    assert weighted_mean(states, torch.ones(2))["steps"].item() == 2**53 + 1


def test_refuses_a_shape_that_would_broadcast() -> None:
    with pytest.raises(ValueError, match=r"got \(1,\)"):
        weighted_mean([{"w": torch.zeros(3)}, {"w": torch.zeros(1)}], torch.ones(2))


def test_refuses_complex_tensors() -> None:
    with pytest.raises(ValueError, match="view_as_real"):
        weighted_mean([{"w": torch.zeros(1, dtype=torch.complex64)}], torch.ones(1))
