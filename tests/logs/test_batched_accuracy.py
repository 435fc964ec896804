"""Accuracies that are counted for many at once are those of torchmetrics, in every bit of value and state."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import MeanAbsoluteError, Metric
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy, MultilabelAccuracy

from hetfed_lightning.logs.batched_accuracy import Counts, computed, count, enter, reset


def plain(metric: Metric) -> dict[str, Any]:
    """What a metric holds, but for its functions."""
    return {key: value for key, value in vars(metric).items() if not callable(value) and not key.startswith("_cache")}


def same(one: Metric, other: Metric) -> None:
    mine, theirs = plain(one), plain(other)
    for key in (*Counts._fields, "_update_count", "_computed"):
        torch.testing.assert_close(mine[key], theirs[key], rtol=0, atol=0)
        assert not isinstance(mine[key], Tensor) or mine[key].shape == theirs[key].shape


def drawn(kind: str, seed: int, members: int = 4, examples: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions with ties and values on the threshold, targets, and a mask of one size for each member."""
    generator = torch.Generator().manual_seed(seed)
    shape = (members, examples, 3) if kind == "multiclass" else (members, examples)
    predictions = torch.randint(0, 5, shape, generator=generator) / 4
    targets = torch.randint(0, 3 if kind == "multiclass" else 2, (members, examples), generator=generator)
    sizes = torch.randint(1, examples + 1, (members, 1), generator=generator)
    return predictions, targets, torch.arange(examples) < sizes


def accuracies(kind: str, **own: Any) -> Metric:
    return MulticlassAccuracy(3, average="micro", **own) if kind == "multiclass" else BinaryAccuracy(**own)


@pytest.mark.parametrize("kind", ["multiclass", "binary"])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_counts_do_what_an_update_does(kind: Any, seed: int) -> None:
    counted, updated = ([accuracies(kind) for _ in range(4)] for _ in range(2))
    for step in range(2):
        predictions, targets, mask = drawn(kind, seed + step)
        for place, counts in enumerate(count(kind, predictions, targets, mask) or ()):
            assert counts is not None
            assert enter(counted[place], counts, kind, 3 if kind == "multiclass" else 1)
            here = mask[place]
            updated[place].update(predictions[place][here], targets[place][here])
    for one, other in zip(counted, updated, strict=True):
        same(one, other)
    assert computed(counted) == [float(metric.compute()) for metric in updated]


@pytest.mark.parametrize("metric", [accuracies("binary"), accuracies("multiclass"), MeanAbsoluteError()])
def test_a_reset_is_a_reset(metric: Metric) -> None:
    fresh = metric.clone()
    metric.update(torch.tensor([1, 0, 1]), torch.tensor([1, 1, 0]))
    metric.compute()
    other = metric.clone()
    reset(metric)
    other.reset()
    for one in (fresh, other):
        for key in (*metric._defaults, "_update_count", "_computed", "_forward_cache"):
            torch.testing.assert_close(vars(metric)[key], vars(one)[key], rtol=0, atol=0)
    assert vars(metric).keys() == vars(other).keys()


def test_by_hand() -> None:
    # Right, wrong, and one that only fills up; the other member is right twice and wrong once.
    predictions = torch.tensor([[0.9, 0.9, 0.9], [0.2, 0.6, 0.5]])
    targets = torch.tensor([[1, 0, 0], [0, 1, 1]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert count("binary", predictions, targets, mask) == [Counts(1, 1, 0, 0), Counts(1, 0, 1, 1)]
    several = torch.eye(3).expand(2, 3, 3)
    assert count("multiclass", several, torch.tensor([[0, 1, 2], [0, 0, 0]]), mask) == [
        Counts(2, 0, 0),
        Counts(1, 2, 2),
    ]


@pytest.mark.parametrize(("kind", "wrong"), [("multiclass", 3), ("multiclass", -1), ("binary", 2), ("binary", -1)])
def test_what_torchmetrics_minds_is_left_to_it(kind: Any, wrong: int) -> None:
    predictions, targets, _ = drawn(kind, 0)
    targets[1, 2] = wrong
    predictions[2].view(6, -1)[1, 0] = math.nan
    mask = torch.ones_like(targets, dtype=torch.bool)
    found = count(kind, predictions, targets, None)
    assert [one is None for one in found or ()] == [False, True, True, False]
    mask[1:3, 1:] = False  # What only fills up may be anything.
    assert None not in (count(kind, predictions, targets, mask) or [None])
    assert count(kind, predictions, targets.double(), None) is None
    assert count("regression", predictions, targets, None) is None


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        (MulticlassAccuracy(3, average="macro"), "multiclass"),
        (MulticlassAccuracy(3, average="micro", top_k=2), "multiclass"),
        (MulticlassAccuracy(3, average="micro", ignore_index=0), "multiclass"),
        (MulticlassAccuracy(3, average="micro", multidim_average="samplewise"), "multiclass"),
        (MulticlassAccuracy(4, average="micro"), "multiclass"),
        (MulticlassAccuracy(3, average="micro"), "binary"),
        (BinaryAccuracy(threshold=0.7), "binary"),
        (BinaryAccuracy(), "multiclass"),
        (type("Own", (BinaryAccuracy,), {})(), "binary"),
        (MultilabelAccuracy(3, average="micro"), "multilabel"),
        (MeanAbsoluteError(), "regression"),
    ],
)
def test_no_other_metric_is_counted(metric: Metric, kind: Any) -> None:
    assert not enter(metric, Counts(1, 1, 1, 1), kind, 3)
    assert not metric.update_called


def test_any_metrics_are_computed_and_what_was_never_updated_is_undefined() -> None:
    error, accuracy, macro = MeanAbsoluteError(), accuracies("binary"), MulticlassAccuracy(2, average="macro")
    error.update(torch.tensor([1.0]), torch.tensor([3.5]))
    macro.update(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 1, 1]))  # All of class 0, two thirds of class 1.
    accuracy.update(torch.tensor([0.9, 0.1, 0.1]), torch.tensor([1, 1, 0]))
    found = computed([error, accuracy, accuracies("multiclass"), macro])
    assert found[:2] == [2.5, float(torch.tensor(2.0) / 3)]
    assert math.isnan(found[2])
    assert found[3] == pytest.approx(5 / 6)


def test_a_metric_that_was_made_in_inference_mode_counts_on() -> None:
    with torch.inference_mode():
        metric = accuracies("binary")
        metric.update(torch.tensor([0.9]), torch.tensor([1]))
    assert enter(metric, Counts(0, 1, 0, 2), "binary", 1)
    assert computed([metric]) == [0.75]
