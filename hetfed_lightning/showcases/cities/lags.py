"""Examples of an hourly flow: features that are known before an hour begins, and the flow of that hour as the target.

Ten features: sine and cosine of the hour, the weekday and the month, 1 or 0 for a weekend, and the flow 1, 2 and 24
hours before. A lag is that of the clock hour, not of the row that stands before; where that hour was not recorded,
there is no example. Lags are in standard deviations around the mean of the training hours, so that an hour of one city
means the same to the network of another; targets are left in the unit of the flow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.showcases.cities.flows import Flow

__all__ = ["FEATURES", "HISTORY", "LAGS", "Hours", "Scale", "calendar", "flow_before", "usable_hours"]

LAGS = (1, 2, 24)
"""Hours before, in the order of the last three features."""
HISTORY = 24
"""Length of the history in hours."""
FEATURES = (
    "hour_sin", "hour_cos", "weekday_sin", "weekday_cos", "month_sin", "month_cos", "weekend",
    *(f"lag_{lag}" for lag in LAGS),
)  # fmt: skip
"""Names of the ten features, in order."""


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of a flow, in its unit; the deviation is above 0."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Scale:
        """Mean and standard deviation (of the population) of values ``(N,)``; a deviation of 0 becomes 1."""
        return cls(float(values.mean()), float(values.std()) or 1.0)


@dataclass(frozen=True)
class Hours:
    """Hours of a flow for which all lags exist, in order of time.

    Attributes:
        name: Name of the flow.
        hours: Hours since 1970 in local time, shape ``(N,)``, increasing.
        lags: Flow 1, 2 and 24 hours before, shape ``(N, 3)``, in the unit of the flow.
        history: Flow 24, 23, ..., 1 hours before, shape ``(N, 24)``; NaN where it was not recorded.
        flow: Flow of the hour, the target, shape ``(N,)``, in the unit of the flow.
    """

    name: str
    hours: NDArray[np.int64]
    lags: NDArray[np.float64]
    history: NDArray[np.float64]
    flow: NDArray[np.float64]

    def __len__(self) -> int:
        """Number of hours, N."""
        return len(self.hours)

    def scale(self, count: int) -> Scale:
        """Mean and deviation of the flow in the first ``count`` hours."""
        return Scale.of(self.flow[:count])

    def examples(self, scale: Scale, *, history: bool) -> Examples:
        """An example for each hour.

        Args:
            scale: Scale of the lags and the history.
            history: True for inputs ``{"features": (N, 10), "history": (N, 24, 2)}`` rather than the features alone. A
                step of the history is the scaled flow and 1, or 0 and 0 where it was not recorded.

        Returns:
            Examples in order of time, float32; targets are the flow in its own unit, shape ``(N,)``.
        """
        scaled = (self.lags - scale.mean) / scale.std
        features = _float32(np.concatenate([calendar(self.hours), scaled], axis=1))
        if not history:
            return Examples(features, _float32(self.flow))
        known = ~np.isnan(self.history)
        past = np.where(known, (self.history - scale.mean) / scale.std, 0.0)
        return Examples(
            {"features": features, "history": _float32(np.stack([past, known], axis=2))}, _float32(self.flow)
        )


def usable_hours(flow: Flow) -> Hours:
    """Hours of a flow for which those 1, 2 and 24 hours before were recorded too.

    Raises:
        DataError: If there is none.
    """
    lags = flow_before(flow, LAGS)
    kept = ~np.isnan(lags).any(axis=1)
    if not kept.any():
        raise DataError(
            f"{flow.name}: of {len(flow)} hours none has the hours {', '.join(map(str, LAGS))} before it: leave it out"
        )
    history = flow_before(flow, range(HISTORY, 0, -1))
    return Hours(flow.name, flow.hours[kept], lags[kept], history[kept], flow.values[kept])


def flow_before(flow: Flow, lags: range | tuple[int, ...]) -> NDArray[np.float64]:
    """Flow some hours before each hour by the clock; NaN where it was not recorded.

    Args:
        flow: N hours.
        lags: Numbers of hours, L of them.

    Returns:
        Shape ``(N, L)``.
    """
    wanted = flow.hours[:, None] - np.array(lags)
    place = np.searchsorted(flow.hours, wanted).clip(max=len(flow) - 1)
    return np.where(flow.hours[place] == wanted, flow.values[place], np.nan)


def calendar(hours: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sine and cosine of hour, weekday and month, and 1 on Saturday and Sunday, else 0.

    Args:
        hours: Hours since 1970, shape ``(N,)``.

    Returns:
        Shape ``(N, 7)``. Midnight, Monday and January have angle 0.
    """
    weekday = (hours // 24 + 3) % 7  # the first of January 1970 was a Thursday
    month = hours.astype("datetime64[h]").astype("datetime64[M]").astype(np.int64) % 12
    columns = []
    for value, period in ((hours % 24, 24), (weekday, 7), (month, 12)):
        angle = 2 * np.pi * value / period
        columns += [np.sin(angle), np.cos(angle)]
    return np.stack([*columns, weekday >= 5], axis=1)


def _float32(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
