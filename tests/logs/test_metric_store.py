"""What a round's notes reduce to, whatever else was noted beside them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy

from hetfed_lightning.logs import metric_store as module
from hetfed_lightning.logs.metric_store import Ledger, Reduced, merge_notes


def test_entries_of_any_dtype_keep_their_own_digits() -> None:
    ledger = Ledger()
    ledger.record("count", torch.tensor(2**40 + 1), weight=3)
    ledger.record("half", torch.tensor(0.5, dtype=torch.bfloat16), weight=3)
    for value, weight in ((1.0, 1), (torch.tensor(2.0), 3), (torch.tensor([4]), 4)):  # (1 + 6 + 16) / 8
        ledger.record("mixed", value, weight=weight)
    ledger.record_row(("row", "other"), torch.tensor([1.0, 3.0]), (2.0, 1.0))
    ledger.record_row(("row", "other"), torch.tensor([4.0, 5.0]), (1.0, 1.0))
    found = {key: figure.value for key, figure in ledger.reduce().items()}
    assert found == {"count": 2**40 + 1, "half": 0.5, "mixed": 2.875, "row": 2.0, "other": 4.0}
    assert ledger.reduce() == {}


def test_extremes_and_sums_say_what_is_not_a_number() -> None:
    ledger = Ledger()
    for reduction in ("min", "max", "sum", "mean"):
        for value in (1.0, math.nan, 3.0):
            ledger.record(reduction, value, reduction=reduction)
    ledger.record("nothing", 1.0, weight=0.0)
    assert all(math.isnan(figure.value) for figure in ledger.reduce().values())


def test_a_device_is_asked_once_for_everyones_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    right = torch.cat

    def cat(tensors: Any, *args: Any, **kwargs: Any) -> Tensor:
        asked.append(len(tensors))
        return right(tensors, *args, **kwargs)

    ledger = Ledger()
    for number in range(10):
        ledger.record(f"loss/{number}", torch.tensor(float(number)))
    monkeypatch.setattr(torch, "cat", cat)
    assert list(ledger.reduce().values()) == [Reduced(float(number)) for number in range(10)]
    assert asked == [10]


def test_a_metric_is_kept_to_this_process_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    right = module.keep_to_oneself

    def keep(metric: Any) -> None:
        kept.append(metric)
        right(metric)

    monkeypatch.setattr(module, "keep_to_oneself", keep)
    metric, ledger = MulticlassAccuracy(3), Ledger()
    for _ in range(2):
        for _ in range(3):
            metric.update(torch.tensor([1]), torch.tensor([1]))
            ledger.record("accuracy", metric)
        assert ledger.reduce()["accuracy"].value == 1.0
        assert not metric.update_called
    assert kept == [metric]
    assert not metric.distributed_available_fn()


def test_what_one_process_cannot_define_another_may() -> None:
    def noted(*targets: int) -> Ledger:
        metric, ledger = BinaryAUROC(sync_on_compute=False), Ledger()
        metric.update(torch.linspace(0, 1, len(targets)), torch.tensor(targets))
        ledger.record("val_auroc/a", metric)
        return ledger

    apart = merge_notes([noted(0, 0).take_notes(), noted(0).take_notes()])
    assert math.isnan(apart["val_auroc/a"].value)
    assert "3 examples are all negative" in apart["val_auroc/a"].undefined
    together = merge_notes([noted(0, 1).take_notes(), noted(1).take_notes()])
    assert not together["val_auroc/a"].undefined
    assert together["val_auroc/a"].value == 0.75
