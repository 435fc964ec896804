"""Hourly flows of three cities that come with the package: cars on a motorway, hired bikes, parked cars.

Hours without a record stay absent; nothing is filled in. Impossible readings are corrected: a duplicate counts once,
negative numbers of cars are left out, and more cars than a car park holds are as many as it holds. Attribution and
licences (CC BY 4.0) lie beside the files.

References:
    Hogue (2019), Metro Interstate Traffic Volume; Fanaee-T (2013), Bike Sharing; Stolfi (2019), Parking Birmingham: UCI
    Machine Learning Repository.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from hetfed_lightning.data.errors import DataError

__all__ = ["CITIES", "Flow", "hourly_mean", "occupancies", "read_car_parks", "read_city"]

CITIES = ("minneapolis", "washington", "birmingham")
"""Names of the cities that come with the package."""

_COLUMN = {"minneapolis": "volume", "washington": "bikers"}


@dataclass(frozen=True)
class Flow:
    """One quantity, hour by hour.

    Attributes:
        name: Name of the flow, for messages.
        hours: Hours since 1970 in local time, int64, shape ``(N,)``, increasing; absent ones are left out.
        values: Value of each hour, float64, shape ``(N,)``, in the unit of the source.

    Raises:
        DataError: If there is no hour, lengths differ, hours do not increase, or a value is not finite.
    """

    name: str
    hours: NDArray[np.int64]
    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.hours) == 0 or len(self.hours) != len(self.values):
            raise DataError(
                f"{self.name}: expected as many values as hours, at least one, got {len(self.values)} and "
                f"{len(self.hours)}"
            )
        steps = np.diff(self.hours)
        if (steps <= 0).any():
            at = int(np.argmax(steps <= 0)) + 1
            raise DataError(
                f"{self.name}: expected every hour once and in order, got {as_time(self.hours[at])} after "
                f"{as_time(self.hours[at - 1])}: sort the hours and join those that recur"
            )
        if not np.isfinite(self.values).all():
            at = int(np.argmin(np.isfinite(self.values)))
            raise DataError(f"{self.name}: {as_time(self.hours[at])} is {self.values[at]}: leave absent hours out")

    def __len__(self) -> int:
        """Number of hours, N."""
        return len(self.hours)


def read_city(name: str) -> Flow:
    """Hourly flow of one city.

    Args:
        name: ``"minneapolis"`` (vehicles per hour, westbound on Interstate 94, 2016 to 2018), ``"washington"`` (bikes
            hired per hour, 2011) or ``"birmingham"`` (cars parked, the mean over the car parks that reported in that
            hour, 8 to 16 h, October to December 2016).

    Raises:
        DataError: If there is no such city.
    """
    if name not in CITIES:
        raise DataError(f"city: expected one of {', '.join(CITIES)}, got {name!r}")
    if name == "birmingham":
        # The mean rather than the total: one to seven of the thirty are silent on any day.
        parks = read_car_parks().values()
        hours, values = (np.concatenate([getattr(park, part) for park in parks]) for part in ("hours", "values"))
        return hourly_mean(name, hours, values)
    rows = _rows(name)
    hours = hours_of(row["timestamp"] for row in rows)
    return Flow(name, hours, np.array([float(row[_COLUMN[name]]) for row in rows]))


def read_car_parks() -> dict[str, Flow]:
    """Occupancy of each of Birmingham's 30 car parks, by name, in cars, the mean over an hour's readings."""
    rows = _rows("birmingham")
    parks: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        parks.setdefault(row["car_park"], []).append(row)
    return {
        name: hourly_mean(name, *occupancies((row["timestamp"], row["occupancy"], row["capacity"]) for row in own))
        for name, own in sorted(parks.items())
    }


def occupancies(
    readings: Iterable[tuple[str, str | float, str | float]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Hours and occupancies of one car park's readings, corrected.

    Args:
        readings: Local time, occupancy and capacity, both in cars. A duplicate counts once, an occupancy below 0 is
            left out, one above the capacity counts as the capacity.

    Returns:
        Clock hours of the n readings that are kept, in hours since 1970, and their cars, shape ``(n,)`` each.
    """
    kept = dict.fromkeys((time, float(cars), float(capacity)) for time, cars, capacity in readings)
    kept = {reading: None for reading in kept if reading[1] >= 0}
    cars = np.array([min(cars, capacity) for _, cars, capacity in kept])
    return hours_of(time for time, _, _ in kept), cars


def hourly_mean(name: str, hours: NDArray[np.int64], values: NDArray[np.float64]) -> Flow:
    """Flow of the mean of the values of each hour, in order of time.

    Args:
        name: Name of the flow.
        hours: Hour of each value, in hours since 1970, shape ``(n,)``.
        values: Shape ``(n,)``.
    """
    found, place, counts = np.unique(hours, return_inverse=True, return_counts=True)
    return Flow(name, found, np.bincount(place, values) / counts)


def hours_of(times: Iterable[str]) -> NDArray[np.int64]:
    """Clock hours since 1970 of times such as "2016-10-04 07:59:42", shape ``(n,)``, int64."""
    return np.array(list(times), dtype="datetime64[s]").astype("datetime64[h]").astype(np.int64)


def as_time(hour: int | np.int64) -> str:
    """Time of an hour since 1970, as people write it."""
    return str(np.datetime64(int(hour), "h")).replace("T", " ") + " h"


def _rows(name: str) -> list[dict[str, str]]:
    source = files(__package__) / f"city_{name}.csv.gz"
    with source.open("rb") as packed, gzip.open(packed, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
