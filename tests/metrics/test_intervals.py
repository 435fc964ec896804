import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hetfed_lightning.metrics import mean_interval


def test_by_hand() -> None:
    # 1, 2, 3: mean 2, standard deviation 1, standard error 1 / sqrt(3); t of two degrees of freedom is 4.3027 in any
    # table: 2 -+ 2.4842.
    found = mean_interval([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2.0, 3)
    assert (found.low, found.high) == pytest.approx((-0.48414, 4.48414), abs=1e-5)
    assert not found.excludes_zero


def test_divisions_of_one_data_set_are_worth_less_by_hand() -> None:
    # The same three with r = 2 / 3: 4.3027 * 1 * sqrt(1 / 3 + 2 / 3).
    found = mean_interval([1.0, 2.0, 3.0], test_to_train=2 / 3)
    assert (found.low, found.high) == pytest.approx((2 - 4.30265, 2 + 4.30265), abs=1e-5)
    with pytest.raises(ValueError, match="test_to_train: expected a ratio of at least 0, got -1"):
        mean_interval([1.0, 2.0], test_to_train=-1)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_against_scipy(values: list[float], confidence: float) -> None:
    if np.ptp(values) < 1e-6:
        return
    found = mean_interval(values, confidence)
    low, high = stats.t.interval(confidence, len(values) - 1, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-6)


def test_it_holds_the_true_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(0.3, 2.0, size=(2000, 5))
    held = [(one := mean_interval(row)).low <= 0.3 <= one.high for row in draws.tolist()]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("values", [[], [math.nan], [0.5], [0.5, math.nan]])
def test_fewer_than_two_values_have_no_ends(values: list[float]) -> None:
    found = mean_interval(values)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not found.known
    assert not found.excludes_zero
    assert found.mean == 0.5 or math.isnan(found.mean)


def test_values_that_are_missing_are_left_out() -> None:
    assert mean_interval([1.0, math.nan, 3.0]) == mean_interval([1.0, 3.0])


def test_equal_values_leave_no_doubt() -> None:
    found = mean_interval([0.25] * 4)
    assert (found.low, found.mean, found.high) == (0.25, 0.25, 0.25)
    assert found.excludes_zero


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, -0.5])
def test_a_confidence_in_percent_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"share between 0 and 1, such as 0.95"):
        mean_interval([1.0, 2.0], confidence)
