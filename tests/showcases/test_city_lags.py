from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
import torch

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.showcases.cities.flows import Flow
from hetfed_lightning.showcases.cities.lags import FEATURES, Scale, calendar, flow_before, usable_hours


def flow(values: dict[int, float]) -> Flow:
    return Flow("here", np.array(list(values), dtype=np.int64), np.array(list(values.values()), dtype=np.float64))


def hour_of(year: int, month: int, day: int, hour: int) -> int:
    moment = dt.datetime(year, month, day, hour, tzinfo=dt.UTC)
    return int(moment.timestamp()) // 3600


def test_lags_are_hours_of_the_clock_not_rows() -> None:
    # Hour 2 is missing. One hour before 3 is unknown although a row stands before it; two hours before it is hour 1.
    found = flow_before(flow({0: 10.0, 1: 11.0, 3: 13.0, 4: 14.0}), (1, 2))
    expected = [[np.nan, np.nan], [10, np.nan], [np.nan, 11], [13, np.nan]]
    np.testing.assert_array_equal(found, expected)


def test_only_hours_with_all_lags_are_used() -> None:
    # 0 to 26 without 3: 24 lacks nothing (23, 22, 0), 25 neither (24, 23, 1), 26 neither (25, 24, 2), 27 lacks hour 3.
    hours = [hour for hour in range(28) if hour != 3]
    found = usable_hours(flow({hour: 100.0 + hour for hour in hours}))
    assert found.hours.tolist() == [24, 25, 26]
    assert found.lags.tolist() == [[123, 122, 100], [124, 123, 101], [125, 124, 102]]
    assert found.flow.tolist() == [124, 125, 126]


def test_daylight_hours_look_back_to_the_same_hour_the_day_before() -> None:
    # Open from 8 to 11 h on three days; 10 and 11 h have both hours before them, from the second day on.
    hours = {day * 24 + clock: day * 100.0 + clock for day in range(3) for clock in range(8, 12)}
    found = usable_hours(flow(hours))
    assert found.hours.tolist() == [34, 35, 58, 59]
    assert found.lags.tolist() == [[109, 108, 10], [110, 109, 11], [209, 208, 110], [210, 209, 111]]
    assert np.isnan(found.history).sum(axis=1).tolist() == [20, 20, 20, 20]


def test_history_is_the_last_day_oldest_first_with_gaps_marked() -> None:
    hours = [hour for hour in range(26) if hour != 5]
    found = usable_hours(flow({hour: float(hour) for hour in hours}))
    examples = found.examples(Scale(mean=10.0, std=2.0), history=True)
    assert isinstance(examples.inputs, dict)
    history = examples.inputs["history"]
    assert history.shape == (2, 24, 2)  # of hours 24 and 25
    # Before hour 24: 0, 1, ..., 23, as (h - 10) / 2; hour 5 is absent.
    expected = torch.tensor([0.0 if hour == 5 else (hour - 10) / 2 for hour in range(24)])
    torch.testing.assert_close(history[0, :, 0], expected)
    assert history[0, :, 1].tolist() == [float(hour != 5) for hour in range(24)]
    assert history[1, 4].tolist() == [0, 0]


def test_calendar_by_hand() -> None:
    # Saturday, 2 April 2016, 6 h: a quarter of the day, 5/7 of the week, 3/12 of the year.
    found = calendar(np.array([hour_of(2016, 4, 2, 6)]))[0]
    week = 2 * np.pi * 5 / 7
    np.testing.assert_allclose(found, [1, 0, np.sin(week), np.cos(week), 1, 0, 1], atol=1e-12)


@pytest.mark.parametrize("day", range(1, 29))
def test_calendar_agrees_with_pythons(day: int) -> None:
    moment = dt.date(2012, 2, day)
    found = calendar(np.array([hour_of(2012, 2, day, 13)]))[0]
    angles = [13 / 24, moment.weekday() / 7, 1 / 12]
    expected = [f(2 * np.pi * angle) for angle in angles for f in (np.sin, np.cos)]
    np.testing.assert_allclose(found, [*expected, moment.weekday() >= 5], atol=1e-12)


def test_features_are_ten_and_lags_are_scaled_while_targets_are_not() -> None:
    found = usable_hours(flow({hour: float(hour) for hour in range(25)}))
    examples = found.examples(Scale(mean=20.0, std=4.0), history=False)
    assert isinstance(examples.inputs, torch.Tensor)
    assert examples.inputs.shape == (1, len(FEATURES)) == (1, 10)
    assert examples.inputs[0, 7:].tolist() == [(23 - 20) / 4, (22 - 20) / 4, (0 - 20) / 4]
    assert torch.as_tensor(examples.targets).tolist() == [24]


def test_the_scale_is_that_of_the_first_hours() -> None:
    found = usable_hours(flow({hour: 3.0 if hour < 26 else 1000.0 + hour for hour in range(30)}))
    assert found.scale(2) == Scale(3.0, 1.0)  # hours 24 and 25: no deviation, so 1
    values = np.array([3.0, 3.0, 1026.0])
    assert found.scale(3) == Scale(values.mean(), values.std())


def test_a_flow_without_usable_hours_is_refused() -> None:
    with pytest.raises(DataError, match="here: of 3 hours none has the hours 1, 2, 24 before it"):
        usable_hours(flow({0: 1.0, 1: 2.0, 30: 3.0}))
