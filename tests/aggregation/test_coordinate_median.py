import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hetfed_lightning.aggregation import coordinate_median, sorted_blocks

COLUMNS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=9)


def median_of(column: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
    states = [{"w": torch.tensor([value], dtype=dtype)} for value in column]
    return coordinate_median(states, torch.ones(len(column)))["w"]


def test_by_hand_odd() -> None:
    # Sorted: 1, 2, 100; the middle is 2.
    assert median_of([100.0, 1.0, 2.0]).item() == 2.0


def test_by_hand_even_takes_both_middle_values() -> None:
    # Sorted: 1, 2, 4, 100; (2 + 4) / 2 = 3, where torch.median says 2.
    assert median_of([4.0, 100.0, 1.0, 2.0]).item() == 3.0


@given(COLUMNS)
def test_agrees_with_numpy(column: list[float]) -> None:
    assert median_of(column, torch.float64).item() == pytest.approx(np.median(column), rel=1e-15)


@given(COLUMNS, st.integers(0, 8))
def test_does_not_depend_on_the_order(column: list[float], turn: int) -> None:
    assert torch.equal(median_of(column[turn:] + column[:turn]), median_of(column))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@given(value=st.floats(-(2.0**100), 2.0**100, width=32), participants=st.integers(1, 9))
def test_equal_states_come_back_exactly(dtype: torch.dtype, value: float, participants: int) -> None:
    value /= 3  # so that float64 has all its digits
    assert torch.equal(median_of([value] * participants, dtype), torch.tensor([value], dtype=dtype))


@pytest.mark.parametrize("lie", [1e30, -1e30, math.inf, -math.inf, math.nan])
def test_two_liars_of_five_do_no_harm(lie: float) -> None:
    assert 1.0 <= median_of([1.0, lie, 2.0, lie, 3.0]).item() <= 3.0


def test_weights_have_no_effect() -> None:
    states = [{"w": torch.tensor([value])} for value in (1.0, 2.0, 50.0)]
    assert coordinate_median(states, torch.tensor([0.0, 0.0, 1e12]))["w"].item() == 2.0


def test_counters_take_the_maximum() -> None:
    states = [{"steps": torch.tensor(7)}, {"steps": torch.tensor(10)}]
    assert coordinate_median(states, torch.ones(2))["steps"].item() == 10


def test_blocks_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    states = [{"w": torch.randn(5, 7, generator=generator)} for _ in range(4)]
    whole = coordinate_median(states, torch.ones(4))["w"]
    monkeypatch.setattr(sorted_blocks, "_VALUES_PER_BLOCK", 12)  # 3 of 35 coordinates at a time
    assert torch.equal(coordinate_median(states, torch.ones(4))["w"], whole)
    np.testing.assert_allclose(whole.numpy(), np.median(np.stack([s["w"].numpy() for s in states]), axis=0))


def test_refuses_weights_that_are_none() -> None:
    with pytest.raises(ValueError, match="finite weight of at least 0, got -1"):
        coordinate_median([{"w": torch.zeros(1)}], torch.tensor([-1.0]))
