"""Logged values of participants, kept as tensors and reduced once per round.

Lightning's own ``log`` costs tens of microseconds and a lookup a call; a federation logs once per participant and
batch. Here a call appends to a list, and one reduction at the end of the round reads the numbers.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from operator import mul
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from hetfed_lightning.logs.batched_accuracy import computed, reset
from hetfed_lightning.metrics import undefined_because

Reduction = Literal["mean", "sum", "min", "max"]

_STAGE = re.compile(r"^(train|val|test)_")


QUARANTINED = "quarantined"
"""Metric of every participant that was left out of a round: 1 in that round, 0 in others."""


@lru_cache(maxsize=2**16)
def tag(metric: str, owner: str, *, everyone: bool = False) -> str:
    """TensorBoard tag of a participant's metric: ``val_accuracy/hospital_a``, one chart per metric.

    Args:
        metric: Name as the participant logs it, e.g. ``val_accuracy``.
        owner: Name of the participant.
        everyone: True for global data: ``val_global_accuracy/hospital_a``. Of a method's further model, which stands
            behind a dot: ``val_global_accuracy.common/hospital_a``.
    """
    if everyone and "global" not in metric.partition(".")[0]:
        metric = _STAGE.sub(r"\1_global_", metric) if _STAGE.match(metric) else f"global_{metric}"
    return f"{metric}/{owner}"


def quarantine_flags(ever: Iterable[str], now: Collection[str]) -> dict[str, float]:
    """Flags ``quarantined/NAME`` of a round: 1 for participants that it left out, 0 for those of earlier rounds.

    Args:
        ever: Names of participants that were left out of any round.
        now: Names of those left out of this one.
    """
    return {tag(QUARANTINED, name): float(name in now) for name in sorted({*ever, *now})}


@dataclass
class _Entry:
    values: list[Tensor] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    metric: Metric | None = None
    prog_bar: bool = False
    logger: bool = True
    reduction: Reduction = "mean"


@dataclass(frozen=True)
class _Row:
    keys: tuple[str, ...]
    values: Tensor
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Reduced:
    """Value of a metric at the end of a round, and its display settings.

    Attributes:
        value: The value; NaN if there is none.
        prog_bar: True if progress bars show it.
        logger: True if loggers get it.
        undefined: Reason for which the data do not define it; empty if they do, or it is not known.
    """

    value: float
    prog_bar: bool = False
    logger: bool = True
    undefined: str = ""


def reduction_of(reduce_fx: str | Callable[..., Any], key: str) -> Reduction:
    """Reduction named by ``LightningModule.log(reduce_fx=...)``, given as a name or as torch's function of that name.

    Args:
        reduce_fx: Name or function.
        key: Name of the metric, for the message.

    Raises:
        ValueError: If it is neither.
    """
    name = reduce_fx if isinstance(reduce_fx, str) else getattr(reduce_fx, "__name__", "")
    if name not in get_args(Reduction) or not (isinstance(reduce_fx, str) or reduce_fx is getattr(torch, name)):
        raise ValueError(f"{key}: expected reduce_fx to be one of {', '.join(get_args(Reduction))}, got {reduce_fx!r}.")
    return cast("Reduction", name)


def batch_size_of(batch: Any) -> int:
    """Number of examples in a batch, B: the length of its first tensor; 1 if there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else ()
    return next((batch_size_of(part) for part in parts if isinstance(part, (Tensor, Mapping, tuple, list))), 1)


class Ledger:
    """Store of logged values: means weighted by batch size (or sums, or extremes), and metrics over all batches."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = defaultdict(_Entry)
        self._rows: list[_Row] = []
        self._passing: dict[int, Metric] = {}

    def reset_later(self, metric: Metric) -> None:
        """Mark a metric that is logged by step alone for a reset at the next reduction, as Lightning does."""
        self._passing[id(metric)] = metric

    def _reset_passing(self) -> None:
        for metric in self._passing.values():
            metric.reset()
        self._passing.clear()

    def record(
        self,
        key: str,
        value: Any,
        *,
        weight: float = 1.0,
        prog_bar: bool = False,
        logger: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        """Store one value.

        Args:
            key: Tag of the value.
            value: Number, tensor with one element, or metric that computes its own value.
            weight: Weight in a mean, such as the batch size.
            prog_bar: True to show it in progress bars.
            logger: True to give it to loggers.
            reduction: Reduction over the round.
        """
        entry = self._entries[key]
        entry.reduction = reduction
        entry.prog_bar |= prog_bar
        entry.logger &= logger
        if isinstance(value, Metric):
            if value.distributed_available_fn is not _alone:  # Once: walking through its modules takes a while.
                keep_to_oneself(value)
            entry.metric = value
            return
        if not isinstance(value, Tensor):
            value = torch.tensor(float(value), dtype=torch.float64)  # The default is half in "bf16-true".
        if value.numel() != 1:
            raise ValueError(f"{key}: expected a number to log, got a tensor of shape {tuple(value.shape)}.")
        entry.values.append(value.detach() if value.ndim == 0 else value.detach().reshape(()))
        entry.weights.append(weight)

    def record_row(self, keys: tuple[str, ...], values: Tensor, weights: Sequence[float]) -> None:
        """Store one value under each of K keys, to be reduced by means.

        Args:
            keys: K tags.
            values: Values, shape ``(K,)``.
            weights: K weights, such as batch sizes.
        """
        self._rows.append(_Row(keys, values.detach(), tuple(weights)))

    def _enter_rows(self) -> None:
        """Turn rows into entries, a column each."""
        rows, self._rows = self._rows, []
        columns: dict[tuple[str, ...], list[_Row]] = defaultdict(list)
        for row in rows:
            columns[row.keys].append(row)
        for keys, same in columns.items():
            values = torch.stack([row.values for row in same], dim=1)
            for place, key in enumerate(keys):
                entry = self._entries[key]
                entry.values.append(values[place])
                entry.weights.extend(row.weights[place] for row in same)

    def reduce(self) -> dict[str, Reduced]:
        """Reduced values by tag of everything stored since the last call; the store is empty afterwards."""
        self._enter_rows()
        reduced = _reduced(self._entries)
        self._entries.clear()
        self._reset_passing()
        return reduced

    def take_notes(self) -> dict[str, Any]:
        """Everything stored since the last call, metrics with their counts, for :func:`merge_notes`."""
        self._enter_rows()
        notes = {
            key: {"metric": None if entry.metric is None else deepcopy(entry.metric).cpu()} | _saved(entry)
            for key, entry in self._entries.items()
        }
        for entry in self._entries.values():
            if entry.metric is not None:
                entry.metric.reset()
        self._entries.clear()
        self._reset_passing()
        return notes

    def state_dict(self) -> dict[str, Any]:
        """Values stored since the last reduction, without metrics, which keep their own counts."""
        self._enter_rows()
        return {key: _saved(entry) for key, entry in self._entries.items() if entry.values}

    def load_state_dict(self, state_dict: Mapping[str, Any], device: torch.device) -> None:
        """Continue from the state of :meth:`state_dict`, on a device."""
        for key, saved in state_dict.items():
            own = dict(saved) | {"values": list(saved["values"].to(device)), "weights": list(saved["weights"])}
            self._entries[key] = _Entry(**own)

    def noted(self, key: str) -> list[Tensor]:
        """All values stored under ``key``, as a list of at most one tensor; empty if there is none."""
        self._enter_rows()
        entry = self._entries.get(key)
        return [] if entry is None or not entry.values else [_stacked(entry)]


def keep_to_oneself(module: nn.Module) -> None:
    """Make a module's metrics compute over this process alone: no other process updates the same ones."""
    for part in module.modules():
        if isinstance(part, Metric):
            part.distributed_available_fn = _alone


def _alone() -> bool:
    return False


def merge_notes(parts: Sequence[Mapping[str, Any]]) -> dict[str, Reduced]:
    """Reduced values by tag, of several processes that each stored a part of the same batches.

    Args:
        parts: Result of :meth:`Ledger.take_notes` of each process.
    """
    entries: dict[str, _Entry] = {}
    for part in parts:
        for key, notes in part.items():
            found = _Entry(**{**notes, "values": list(notes["values"]), "weights": list(notes["weights"])})
            entry = entries.setdefault(key, found)
            if entry is not found:
                entry.values += found.values
                entry.weights += found.weights
                if entry.metric is not None and found.metric is not None:
                    entry.metric.merge_state(found.metric)
    return _reduced(entries)


def _saved(entry: _Entry) -> dict[str, Any]:
    return {
        "values": _stacked(entry) if entry.values else torch.empty(0, dtype=torch.float64),
        "weights": list(entry.weights),
        "prog_bar": entry.prog_bar,
        "logger": entry.logger,
        "reduction": entry.reduction,
    }


def _stacked(entry: _Entry) -> Tensor:
    return torch.cat([torch.atleast_1d(values) for values in entry.values]).double()


def _reduced(entries: Mapping[str, _Entry]) -> dict[str, Reduced]:
    numbers = _numbers([entry.values for entry in entries.values()])
    values = {key: _value_of(entry, own) for (key, entry), own in zip(entries.items(), numbers, strict=True)}
    metrics = {key: entry.metric for key, entry in entries.items() if entry.metric is not None}
    values |= _computed(metrics)
    undefined = {key: undefined_because(one) or "" for key, one in metrics.items() if math.isnan(values[key])}
    undefined |= {key: "none of its examples has a weight" for key, one in entries.items() if _weighs_nothing(one)}
    for metric in metrics.values():
        reset(metric)
    return {
        key: Reduced(values[key], entry.prog_bar, entry.logger, undefined.get(key, ""))
        for key, entry in entries.items()
    }


def _computed(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Values of metrics by tag.

    Raises:
        ValueError: With the tag of a metric that has no single number for what it was shown.
    """
    try:
        return dict(zip(metrics, computed(list(metrics.values())), strict=True))
    except Exception:
        for key, metric in metrics.items():
            try:
                computed([metric])
            except Exception as error:
                raise ValueError(
                    f"{key}: {type(metric).__name__} gives no number for these predictions and targets "
                    f"({type(error).__name__}: {error}). Give the task a metric of its own kind, whose value is one "
                    "number."
                ) from error
        raise


def undefined_figures(figures: Mapping[str, Reduced]) -> dict[str, str]:
    """Reasons by tag of metrics that the data do not define.

    Also of NaN beside a finite loss on the same data: a diverged network has no finite loss.

    Args:
        figures: Reduced metrics of one stage, by tag.
    """
    found = {}
    for key, one in figures.items():
        stage = _STAGE.match(key)
        if not math.isnan(one.value) or stage is None:
            continue
        metric, _, owner = key.partition("/")
        everyone = metric.startswith(f"{stage[0]}global_")
        of_model = f"{stage[0]}loss{''.join(metric.rpartition('.')[1:])}" if "." in metric else ""
        losses = (tag(one, owner, everyone=everyone) for one in (of_model, f"{stage[0]}loss") if one)
        loss = next((figures[one] for one in losses if one in figures), None)
        if one.undefined:
            found[key] = one.undefined
        elif loss is not None and math.isfinite(loss.value):
            found[key] = "it is not a number, while the loss is one"
    return found


def _numbers(columns: Sequence[Sequence[Tensor]]) -> list[list[float]]:
    """The numbers in each column of tensors, read at once: of hundreds of columns a device is asked one time."""
    alike: dict[Any, list[tuple[int, int, Tensor]]] = defaultdict(list)
    lengths = [0] * len(columns)
    for place, column in enumerate(columns):
        for tensor in column:
            alike[tensor.dtype, tensor.device].append((place, lengths[place], tensor))
            lengths[place] += tensor.numel()
    found = [[math.nan] * length for length in lengths]
    for same in alike.values():
        read, start = torch.cat([tensor.reshape(-1) for _, _, tensor in same]).double().tolist(), 0
        for place, offset, tensor in same:
            count = tensor.numel()
            found[place][offset : offset + count] = read[start : start + count]
            start += count
    return found


def _weighs_nothing(entry: _Entry) -> bool:
    return entry.metric is None and entry.reduction == "mean" and bool(entry.weights) and not any(entry.weights)


def _value_of(entry: _Entry, numbers: Sequence[float]) -> float:
    if not numbers:
        return math.nan
    if entry.reduction == "mean":
        weight = sum(entry.weights)
        return sum(map(mul, numbers, entry.weights)) / weight if weight else math.nan
    reduced: Tensor = getattr(torch.tensor(numbers, dtype=torch.float64), entry.reduction)()
    return float(reduced)
