"""Values that participants log, kept as tensors and reduced once per round.

Lightning's own ``log`` costs tens of microseconds and a lookup a call; a federation logs once per participant
and batch. Here a call appends to a list, and one reduction at the end of the round touches the numbers.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

_STAGE = re.compile(r"^(train|val|test)_")


def tag(metric: str, owner: str, *, everyone: bool = False) -> str:
    """TensorBoard tag of a participant's metric: ``val_accuracy/hospital_a``, one chart per metric.

    Args:
        metric: Name as the participant logs it, e.g. ``val_accuracy``.
        owner: The participant.
        everyone: Whether it was measured on everyone's data: ``val_global_accuracy/hospital_a``.
    """
    if everyone and "global" not in metric:
        metric = _STAGE.sub(r"\1_global_", metric) if _STAGE.match(metric) else f"global_{metric}"
    return f"{metric}/{owner}"


@dataclass
class _Entry:
    values: list[Tensor] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    metric: Metric | None = None
    prog_bar: bool = False
    logger: bool = True


@dataclass(frozen=True)
class Reduced:
    """One value at the end of a round, and where its owner wanted it shown."""

    value: float
    prog_bar: bool
    logger: bool


class Ledger:
    """Means of logged values weighted by batch size, and metrics computed over all batches."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = defaultdict(_Entry)

    def record(self, key: str, value: Any, *, weight: float = 1.0, prog_bar: bool = False, logger: bool = True) -> None:
        """Note one value: a number, a tensor with one element, or a metric that computes its own."""
        entry = self._entries[key]
        entry.prog_bar |= prog_bar
        entry.logger &= logger
        if isinstance(value, Metric):
            entry.metric = value
            return
        entry.values.append(value.detach() if isinstance(value, Tensor) else torch.tensor(float(value)))
        entry.weights.append(weight)

    def reduce(self) -> dict[str, Reduced]:
        """Every value noted since the last call, reduced; the ledger is empty afterwards."""
        reduced = {key: Reduced(_value_of(entry), entry.prog_bar, entry.logger) for key, entry in self._entries.items()}
        self._entries.clear()
        return reduced

    def state_dict(self) -> dict[str, Any]:
        """What has been noted since the last reduction, but for metrics, which keep their own counts."""
        return {
            key: {
                "values": _stacked(entry),
                "weights": list(entry.weights),
                "prog_bar": entry.prog_bar,
                "logger": entry.logger,
            }
            for key, entry in self._entries.items()
            if entry.values
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], device: torch.device) -> None:
        """Go on with what :meth:`state_dict` gave."""
        for key, saved in state_dict.items():
            values = list(saved["values"].to(device))
            self._entries[key] = _Entry(values, list(saved["weights"]), None, saved["prog_bar"], saved["logger"])

    def finite(self, key: str) -> bool:
        """Whether every value noted under ``key`` is finite; true when there is none."""
        entry = self._entries.get(key)
        return entry is None or not entry.values or bool(torch.isfinite(_stacked(entry)).all())


def _stacked(entry: _Entry) -> Tensor:
    return torch.stack([value.reshape(()).double() for value in entry.values])


def _value_of(entry: _Entry) -> float:
    if entry.metric is not None:
        value = entry.metric.compute() if entry.metric.update_called else torch.tensor(math.nan)
        entry.metric.reset()
        return float(value)
    values = _stacked(entry)
    weights = torch.tensor(entry.weights, dtype=torch.float64, device=values.device)
    return float((values * weights).sum() / weights.sum())
