import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from hetfed_lightning.aggregation import TrimmedMean, coordinate_median, weighted_mean

COLUMNS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=12)


def trimmed_mean_of(column: list[float], trim: float, dtype: torch.dtype = torch.float32) -> Tensor:
    states = [{"w": torch.tensor([value], dtype=dtype)} for value in column]
    return TrimmedMean(trim)(states, torch.ones(len(column)))["w"]


def test_by_hand() -> None:
    # 0.2 * 5 = 1 at each side: 1 and 100 go, (2 + 3 + 7) / 3 = 4.
    assert trimmed_mean_of([100.0, 2.0, 3.0, 1.0, 7.0], 0.2).item() == 4.0


@pytest.mark.parametrize(
    ("trim", "participants", "dropped"),
    [
        (0.0, 10, 0),
        (0.1, 10, 1),
        (0.1, 5, 1),  # ceil(0.5): the floor would protect nobody below ten participants
        (0.14, 50, 7),  # 0.14 * 50 is 7.000000000000001
        (0.2, 11, 3),  # ceil(2.2)
        (0.1, 2, 0),  # of two, dropping one at each side leaves none
        (0.1, 1, 0),
        (0.49, 5, 2),  # ceil(2.45) = 3 would leave none: one is kept
        (0.49, 6, 2),  # and two of an even number
    ],
)
def test_how_many_are_dropped(trim: float, participants: int, dropped: int) -> None:
    assert TrimmedMean(trim).dropped_per_side(participants) == dropped


@given(COLUMNS, st.floats(0, 0.49))
def test_agrees_with_scipy(column: list[float], trim: float) -> None:
    # scipy takes the floor, so it is asked for a fraction that lies well inside the number to drop.
    proportion = (TrimmedMean(trim).dropped_per_side(len(column)) + 0.25) / len(column)
    expected = float(stats.trim_mean(column, min(proportion, 0.499)))
    assert trimmed_mean_of(column, trim, torch.float64).item() == pytest.approx(expected, rel=1e-12, abs=1e-8)


@given(COLUMNS, st.floats(0, 0.49), st.integers(0, 11))
def test_does_not_depend_on_the_order(column: list[float], trim: float, turn: int) -> None:
    assert torch.equal(trimmed_mean_of(column[turn:] + column[:turn], trim), trimmed_mean_of(column, trim))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@given(value=st.floats(-(2.0**100), 2.0**100, width=32), participants=st.integers(1, 12), trim=st.floats(0, 0.49))
def test_equal_states_come_back_exactly(dtype: torch.dtype, value: float, participants: int, trim: float) -> None:
    value /= 3  # so that float64 has all its digits, and their sum rounds
    mean = trimmed_mean_of([value] * participants, trim, dtype)
    assert torch.equal(mean, torch.tensor([value], dtype=dtype))


@given(COLUMNS)
def test_between_the_mean_and_the_median(column: list[float]) -> None:
    states = [{"w": torch.tensor([value], dtype=torch.float64)} for value in column]
    ones = torch.ones(len(column))
    torch.testing.assert_close(TrimmedMean(0.0)(states, ones), weighted_mean(states, ones), rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(TrimmedMean(0.499)(states, ones), coordinate_median(states, ones), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("lie", [1e30, -1e30, math.inf, -math.inf, math.nan])
def test_stands_as_many_liars_as_it_drops(lie: float) -> None:
    assert 1.0 <= trimmed_mean_of([1.0, 2.0, lie, 3.0, 2.0], 0.2).item() <= 3.0


def test_weights_have_no_effect() -> None:
    states = [{"w": torch.tensor([value])} for value in (1.0, 2.0, 6.0)]
    assert TrimmedMean(0.0)(states, torch.tensor([0.0, 0.0, 1e12]))["w"].item() == 3.0


@pytest.mark.parametrize("trim", [-0.1, 0.5, 1.0, math.nan])
def test_refuses_a_fraction_that_leaves_nothing(trim: float) -> None:
    with pytest.raises(ValueError, match=rf"trim in \[0, 0.5\).*got {trim}: .*coordinate_median"):
        TrimmedMean(trim)
