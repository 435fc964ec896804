import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetfed_lightning.schedules import CosineSchedule, LinearSchedule, RoundSchedule, value_in

numbers = st.floats(-100, 100)


def test_a_line_by_hand() -> None:
    schedule = LinearSchedule(4.0, 1.0, 3)
    assert [schedule(index) for index in range(5)] == [4.0, 3.0, 2.0, 1.0, 1.0]


def test_half_a_wave_by_hand() -> None:
    schedule = CosineSchedule(0.0, 2.0, 4)
    half = math.sqrt(0.5)
    assert [schedule(index) for index in range(6)] == pytest.approx([0, 1 - half, 1, 1 + half, 2, 2])


@pytest.mark.parametrize("kind", [LinearSchedule, CosineSchedule])
@given(start=numbers, end=numbers, rounds=st.integers(1, 50), index=st.integers(0, 100))
def test_it_goes_from_start_to_end_and_never_beyond(
    kind: type[LinearSchedule], start: float, end: float, rounds: int, index: int
) -> None:
    schedule = kind(start, end, rounds)
    low, high = min(start, end) - 1e-9, max(start, end) + 1e-9
    assert schedule(0) == start
    assert schedule(rounds) == pytest.approx(end, abs=1e-9)
    assert schedule(rounds + index) == pytest.approx(end, abs=1e-9)
    assert low <= schedule(index) <= high
    assert (schedule(index + 1) - schedule(index)) * (end - start) >= -1e-9


def test_value_in_a_round() -> None:
    assert value_in(2.5, 7) == 2.5
    assert value_in(LinearSchedule(0.0, 1.0, 2), 1) == 0.5


def test_own_schedules() -> None:
    class Square(RoundSchedule):
        def __call__(self, round_index: int) -> float:
            return float(round_index**2)

    assert value_in(Square(), 3) == 9


@pytest.mark.parametrize("kind", [LinearSchedule, CosineSchedule])
@pytest.mark.parametrize("arguments", [(1.0, 2.0, 0), (math.nan, 1.0, 2), (1.0, math.inf, 2)])
def test_settings_out_of_range(kind: type[LinearSchedule], arguments: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: expected finite values and at least one round, got"):
        kind(*arguments)
