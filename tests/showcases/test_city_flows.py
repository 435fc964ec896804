from __future__ import annotations

import gzip
from importlib.resources import files

import numpy as np
import pytest

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.showcases.cities.flows import (
    CITIES,
    Flow,
    hourly_mean,
    hours_of,
    occupancies,
    read_car_parks,
    read_city,
)


def flow(hours: list[int], values: list[float] | None = None, name: str = "here") -> Flow:
    return Flow(name, np.array(hours, dtype=np.int64), np.array(values or hours, dtype=np.float64))


def test_hours_are_the_clocks() -> None:
    # 1970-01-02 is day 1, so 24 hours; minutes and seconds are cut, not rounded.
    assert hours_of(["1970-01-01 00:59:59", "1970-01-02 03:00:00"]).tolist() == [0, 27]


def test_occupancies_are_cleaned() -> None:
    readings = [
        ("1970-01-01 08:00:00", "40", "50"),
        ("1970-01-01 08:00:00", "40", "50"),  # there twice
        ("1970-01-01 08:30:00", "55", "50"),  # more than it holds
        ("1970-01-01 09:00:00", "-8", "50"),  # fewer than none
        ("1970-01-01 09:30:00", "0", "50"),
    ]
    hours, cars = occupancies(readings)
    assert hours.tolist() == [8, 8, 9]
    assert cars.tolist() == [40, 50, 0]


def test_equal_readings_at_different_times_both_count() -> None:
    hours, cars = occupancies([("1970-01-01 08:00:00", 30, 50), ("1970-01-01 08:30:00", 30, 50)])
    assert (hours.tolist(), cars.tolist()) == ([8, 8], [30, 30])


def test_an_hour_is_the_mean_of_its_readings_in_order_of_time() -> None:
    found = hourly_mean("here", np.array([9, 8, 9, 9]), np.array([1.0, 5.0, 2.0, 6.0]))
    assert (found.hours.tolist(), found.values.tolist()) == ([8, 9], [5, 3])


@pytest.mark.parametrize(
    ("name", "count", "first", "largest"),
    [
        # Lines and largest value of the files, counted with another reader.
        ("minneapolis", 23084, "2016-01-01T00", 7280),
        ("washington", 8645, "2011-01-01T00", 651),
    ],
)
def test_a_city_is_read_as_published(name: str, count: int, first: str, largest: float) -> None:
    found = read_city(name)
    assert len(found) == count
    assert str(np.datetime64(int(found.hours[0]), "h")) == first
    assert found.values.max() == largest
    assert found.values.min() >= 0


def test_car_parks_are_thirty_within_their_capacity() -> None:
    parks = read_car_parks()
    assert len(parks) == 30
    assert parks["BHMBCCTHL01"].values.max() <= 387  # its capacity; up to 403 were reported
    assert min(park.values.min() for park in parks.values()) >= 0
    for park in parks.values():
        clock = park.hours % 24
        assert (clock.min(), clock.max()) >= (7, 16)
        assert clock.max() <= 16


def test_birmingham_is_the_mean_of_the_car_parks_that_reported() -> None:
    parks, city = read_car_parks(), read_city("birmingham")
    hour = int(city.hours[100])
    there = [park.values[park.hours == hour][0] for park in parks.values() if hour in park.hours]
    assert 20 <= len(there) <= 29
    assert city.values[100] == pytest.approx(sum(there) / len(there))


@pytest.mark.parametrize("name", CITIES)
def test_every_set_has_its_attribution(name: str) -> None:
    text = (files("hetfed_lightning.showcases.cities") / f"city_{name}.txt").read_text(encoding="utf-8")
    for word in ("Source:", "Author:", "CC BY 4.0", "Changes:", "https://doi.org/10.24432/"):
        assert word in text
    with (files("hetfed_lightning.showcases.cities") / f"city_{name}.csv.gz").open("rb") as file:
        assert f"{len(gzip.decompress(file.read()).splitlines()) - 1:,}" in text


@pytest.mark.parametrize(
    ("hours", "values", "words"),
    [
        ([], [], "as many values as hours, at least one, got 0 and 0"),
        ([1, 2], [1.0], "got 1 and 2"),
        ([5, 5], [1.0, 2.0], "got 1970-01-01 05 h after 1970-01-01 05 h"),
        ([6, 5], [1.0, 2.0], "every hour once and in order"),
        ([5, 6], [1.0, float("nan")], "1970-01-01 06 h is nan: leave absent hours out"),
    ],
)
def test_what_is_no_flow_is_refused(hours: list[int], values: list[float], words: str) -> None:
    with pytest.raises(DataError, match=f"^here: .*{words}"):
        Flow("here", np.array(hours, dtype=np.int64), np.array(values))


def test_an_unknown_city_is_refused() -> None:
    with pytest.raises(DataError, match="expected one of minneapolis, washington, birmingham, got 'paris'"):
        read_city("paris")
