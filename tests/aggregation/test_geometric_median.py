import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from hetfed_lightning.aggregation import GeometricMedian, State, coordinate_median, weighted_mean


def points(*rows: list[float]) -> list[State]:
    return [{"w": torch.tensor(row, dtype=torch.float64)} for row in rows]


def median_of(states: list[State]) -> Tensor:
    return GeometricMedian(tolerance=1e-9, iterations=10_000)(states, torch.ones(len(states)))["w"]


def random_points(count: int, size: int, seed: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sum_of_distances(where: Tensor, states: Tensor) -> float:
    return float((states - where).norm(dim=1).sum())


def test_of_a_square_it_is_where_the_diagonals_meet() -> None:
    assert median_of(points([0, 0], [4, 0], [4, 4], [0, 4])).tolist() == pytest.approx([2.0, 2.0], abs=1e-9)


def test_of_a_triangle_it_sees_every_side_under_120_degrees() -> None:
    # Fermat's point of an equilateral triangle is its centre.
    states = points([0, 0], [2, 0], [1, math.sqrt(3)])
    assert median_of(states).tolist() == pytest.approx([1.0, 1 / math.sqrt(3)], abs=1e-7)


def test_a_wide_angle_is_its_own_median() -> None:
    # Where a corner has more than 120 degrees, Fermat's point is the corner.
    assert median_of(points([-5, 1], [0, 0], [5, 1])).tolist() == pytest.approx([0.0, 0.0], abs=1e-4)


def test_on_a_line_it_is_the_median() -> None:
    assert median_of(points([0.0], [1.0], [50.0])).item() == pytest.approx(1.0, abs=1e-3)


@settings(max_examples=20)
@given(st.integers(3, 9), st.integers(2, 4), st.integers(0, 1000))
def test_nothing_near_has_a_smaller_sum_of_distances(count: int, size: int, seed: int) -> None:
    rows = random_points(count, size, seed)
    found = median_of([{"w": row} for row in rows])

    def objective(where: NDArray[np.float64]) -> float:
        return sum_of_distances(torch.from_numpy(where), rows)

    best = minimize(objective, rows.mean(0).numpy(), tol=1e-12)
    assert sum_of_distances(found, rows) <= float(best.fun) * (1 + 1e-6)


@settings(max_examples=20)
@given(st.integers(1, 8), st.integers(0, 1000))
def test_turns_moves_and_grows_with_the_states(count: int, seed: int) -> None:
    rows, shift = random_points(count, 3, seed), random_points(1, 3, seed + 1)
    turn = torch.linalg.qr(random_points(3, 3, seed + 2)).Q
    moved = median_of([{"w": row} for row in 10 * rows @ turn + shift])
    expected = 10 * median_of([{"w": row} for row in rows]) @ turn + shift[0]
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)


def test_looks_at_all_tensors_together() -> None:
    whole = random_points(5, 4, 0)
    apart = [{"a": row[:1], "b": row[1:].reshape(3, 1)} for row in whole]
    found = GeometricMedian()(apart, torch.ones(5))
    together = GeometricMedian()([{"w": row} for row in whole], torch.ones(5))["w"]
    torch.testing.assert_close(torch.cat([found["a"], found["b"].flatten()]), together)


@pytest.mark.parametrize("lie", [1e3, 1e30, -1e200, math.inf, math.nan])
def test_two_liars_of_five_do_no_harm(lie: float) -> None:
    rows = [[0.0, 1.0], [lie, lie], [1.0, 0.0], [lie, lie], [1.0, 1.0]]
    found = median_of(points(*rows))
    assert float((found - torch.tensor([2 / 3, 2 / 3])).norm()) < 1.0


def test_who_lies_far_away_pulls_no_harder_than_who_lies_near() -> None:
    near = median_of(points([0, 0], [1, 0], [0, 1], [1, 1], [1e3, 0]))
    far = median_of(points([0, 0], [1, 0], [0, 1], [1, 1], [1e9, 0]))
    torch.testing.assert_close(near, far, rtol=0, atol=1e-3)


def test_a_majority_that_agrees_is_the_median() -> None:
    found = median_of(points([1, 2], [1, 2], [1, 2], [9, 9], [-4, 7]))
    assert found.tolist() == pytest.approx([1.0, 2.0], abs=1e-5)


def test_is_close_to_the_mean_where_nobody_is_faulty() -> None:
    # Of many coordinates all are about equally far from their mean; the coordinate-wise median is far from it.
    states = [{"w": row} for row in random_points(10, 5000, 0)]
    ones = torch.ones(10)
    mean = weighted_mean(states, ones)["w"]
    ours = (GeometricMedian()(states, ones)["w"] - mean).norm()
    assert ours < 0.02 * (coordinate_median(states, ones)["w"] - mean).norm()


def test_the_iterations_are_at_most_so_many_and_each_is_an_improvement() -> None:
    rows = random_points(7, 2, 3)
    states = [{"w": row} for row in rows]
    sums = [
        sum_of_distances(GeometricMedian(tolerance=1e-12, iterations=most)(states, torch.ones(7))["w"], rows)
        for most in (1, 2, 4, 8, 100)
    ]
    assert sums == sorted(sums, reverse=True)
    assert sums[-1] < sums[0]


def test_weights_have_no_effect() -> None:
    states = points([0, 0], [4, 0], [4, 4], [0, 4])
    claims = torch.tensor([1e12, 1.0, 0.0, 1.0])
    assert torch.equal(GeometricMedian()(states, claims)["w"], GeometricMedian()(states, torch.ones(4))["w"])


def test_counters_take_the_maximum() -> None:
    states = [{"w": torch.zeros(1), "steps": torch.tensor(steps)} for steps in (7, 10)]
    assert GeometricMedian()(states, torch.ones(2))["steps"].item() == 10


def test_refuses_when_nobody_is_finite() -> None:
    with pytest.raises(ValueError, match="expected a state that is finite, got 3 that are not"):
        GeometricMedian()(points([math.nan], [math.inf], [math.nan]), torch.ones(3))


def test_refuses_settings_out_of_range() -> None:
    for smoothing in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite smoothing above 0"):
            GeometricMedian(smoothing=smoothing)
    with pytest.raises(ValueError, match=r"tolerance in \(0, 1\), got 0"):
        GeometricMedian(tolerance=0)
    with pytest.raises(ValueError, match="at least 1 iteration, got 0"):
        GeometricMedian(iterations=0)
