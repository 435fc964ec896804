import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetfed_lightning.metrics import FairnessSummary, jain_index, summarise

VALUES = st.lists(st.floats(0, 1e300), min_size=1, max_size=10)


def test_jain_by_hand() -> None:
    # (1 + 2 + 3)^2 / (3 * (1 + 4 + 9)) = 36 / 42
    assert jain_index([1.0, 2.0, 3.0]) == pytest.approx(36 / 42)
    # One has everything: 1 / K.
    assert jain_index([0.0, 0.0, 5.0, 0.0]) == pytest.approx(1 / 4)


def test_jain_of_nothing_at_all_is_fair() -> None:
    assert jain_index([0.0, 0.0]) == 1.0


@given(VALUES)
def test_jain_lies_in_its_range(values: list[float]) -> None:
    assert 1 / len(values) * (1 - 1e-12) <= jain_index(values) <= 1.0


@given(st.floats(0, 1e300), st.integers(1, 10))
def test_jain_of_equals_is_exactly_one(value: float, count: int) -> None:
    assert jain_index([value] * count) == 1.0


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=10), st.floats(1e-3, 1e3))
def test_jain_depends_on_ratios_alone(values: list[float], factor: float) -> None:
    index = jain_index(values)
    assert jain_index([factor * value for value in reversed(values)]) == pytest.approx(index, rel=1e-12)
    # 1 / (1 + cv^2), with the coefficient of variation.
    variation = np.std(values) / np.mean(values)
    assert index == pytest.approx(1 / (1 + variation**2), rel=1e-9)


@pytest.mark.parametrize(("values", "message"), [([], "got none"), ([0.5, -0.1], "got -0.1 at index 1")])
def test_jain_refuses(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jain_index(values)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_jain_refuses_what_is_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match=f"finite values of at least 0, got {value} at index 0"):
        jain_index([value, 1.0])


def test_summary_by_hand() -> None:
    # Mean 2; deviations -1, 0, 1, so variance 2/3 over all three; Jain 36/42.
    summary = summarise({"a": 2.0, "b": 1.0, "c": 3.0})
    assert summary == FairnessSummary(2.0, 1.0, "b", std=summary.std, jain=summary.jain)
    assert summary.std == pytest.approx(math.sqrt(2 / 3))
    assert summary.jain == pytest.approx(36 / 42)


def test_of_losses_the_largest_is_the_worst() -> None:
    summary = summarise({"a": 2.0, "b": 1.0, "c": 3.0}, higher_is_better=False)
    assert (summary.worst, summary.worst_name) == (3.0, "c")


@given(st.dictionaries(st.text(), st.floats(-1e6, 1e6), min_size=1))
def test_agrees_with_the_standard_library(values: dict[str, float]) -> None:
    summary = summarise(values)
    assert summary.mean == pytest.approx(statistics.fmean(values.values()), abs=1e-6)
    assert summary.std == pytest.approx(statistics.pstdev(values.values()), rel=1e-9, abs=1e-6)
    assert summary.worst == values[summary.worst_name] == min(values.values())
    assert math.isnan(summary.jain) == any(value < 0 for value in values.values())


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_what_is_no_number_is_the_worst(higher_is_better: bool) -> None:
    summary = summarise({"a": 0.5, "broken": math.nan, "b": 0.1}, higher_is_better=higher_is_better)
    assert summary.worst_name == "broken"
    assert math.isnan(summary.worst)
    assert math.isnan(summary.mean)
    assert math.isnan(summary.jain)


def test_summary_refuses_nobody() -> None:
    with pytest.raises(ValueError, match="at least one participant, got none"):
        summarise({})
