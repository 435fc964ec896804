"""Metrics where the data define them: against scikit-learn, and against all that could have been predicted."""

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor
from torchmetrics import (
    ExplainedVariance,
    MeanSquaredError,
    Metric,
    PearsonCorrCoef,
    R2Score,
    RelativeSquaredError,
    SpearmanCorrCoef,
)
from torchmetrics import classification as tm
from torchmetrics.regression import ConcordanceCorrCoef, KendallRankCorrCoef

from hetfed_lightning import RegressionTask
from hetfed_lightning.metrics import BalancedAccuracy, DefinedAUROC, DefinedR2Score, undefined_because, value_of

pytestmark = pytest.mark.filterwarnings("ignore")


def seen(metric: Metric, predictions: Any, targets: Any) -> Metric:
    """The metric after one update."""
    metric.update(torch.as_tensor(predictions), torch.as_tensor(targets))
    return metric


def by_hand(metric: str, truth: Sequence[int], scores: Sequence[float]) -> float:
    """The figure as scikit-learn has it, NaN where it divides nothing by nothing."""
    said = [int(score > 0.5) for score in scores]
    nan: Any = math.nan
    figures: dict[str, Callable[[], float]] = {
        "AUROC": lambda: sk.roc_auc_score(truth, scores),
        "AveragePrecision": lambda: sk.average_precision_score(truth, scores) if any(truth) else math.nan,
        "CohenKappa": lambda: sk.cohen_kappa_score(truth, said, labels=[0, 1]),
        "F1Score": lambda: sk.f1_score(truth, said, zero_division=nan),
        "JaccardIndex": lambda: sk.jaccard_score(truth, said) if any(truth) or any(said) else math.nan,
        "NegativePredictiveValue": lambda: sk.precision_score(truth, said, pos_label=0, zero_division=nan),
        "Precision": lambda: sk.precision_score(truth, said, zero_division=nan),
        "Recall": lambda: sk.recall_score(truth, said, zero_division=nan),
        "Specificity": lambda: sk.recall_score(truth, said, pos_label=0, zero_division=nan),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return float(figures[metric]())
        except ValueError:
            return math.nan


@pytest.mark.parametrize(
    "name",
    ["AUROC", "AveragePrecision", "CohenKappa", "F1Score", "JaccardIndex", "NegativePredictiveValue", "Precision",
     "Recall", "Specificity"],
)  # fmt: skip
@pytest.mark.parametrize("truth", [(0, 0, 0), (1, 1, 1), (1, 0, 0), (1, 0, 1)])
def test_a_figure_is_undefined_where_no_prediction_can_change_it(name: str, truth: tuple[int, ...]) -> None:
    possible = {
        round(value, 9)
        for scores in itertools.product((0.1, 0.4, 0.9), repeat=3)
        if not math.isnan(value := by_hand(name, truth, scores))
    }
    metric = seen(getattr(tm, f"Binary{name}")(), [0.9, 0.1, 0.2], list(truth))
    assert (undefined_because(metric) is not None) == (len(possible) <= 1)
    assert math.isnan(value_of(metric)) == (len(possible) <= 1)


@pytest.mark.parametrize(
    ("make", "positive", "negative"),
    [
        (tm.BinaryAUROC, False, False),
        (lambda: tm.BinaryAUROC(thresholds=5), False, False),
        (lambda: tm.AUROC(task="binary"), False, False),
        (lambda: tm.BinaryAveragePrecision(thresholds=5), False, False),
        (tm.BinaryEER, False, False),
        (tm.BinaryMatthewsCorrCoef, False, False),
        (lambda: tm.BinaryFBetaScore(2.0), True, False),
        (BalancedAccuracy, False, False),
        (DefinedAUROC, False, False),
        (tm.BinaryAccuracy, True, True),
        (tm.BinaryHammingDistance, True, True),
    ],
)
def test_one_class_alone_defines_what_it_can(make: Callable[[], Metric], positive: bool, negative: bool) -> None:
    scores = [0.9, 0.2, 0.7]
    for truth, defined in (([1, 1, 1], positive), ([0, 0, 0], negative), ([1, 0, 1], True)):
        metric = seen(make(), scores, truth)
        assert (undefined_because(metric) is None) == defined
        assert value_of(metric) == pytest.approx(float(metric.compute()) if defined else math.nan, nan_ok=True)


def test_the_reason_says_what_there_is_and_what_is_needed() -> None:
    assert undefined_because(tm.BinaryAUROC()) == "it has seen no example"
    auroc = seen(tm.BinaryAUROC(), [0.2, 0.7], [0, 0])
    assert undefined_because(auroc) == "its 2 examples are all negative, and it needs both kinds"
    recall = seen(tm.BinaryRecall(), [0.2, 0.7], [0, 0])
    assert undefined_because(recall) == "its 2 examples are all negative, and it needs positive ones"
    several = seen(tm.MulticlassAUROC(3), [[0.2, 0.5, 0.3]] * 4, [2, 2, 2, 2])
    assert undefined_because(several) == "its 4 examples are all of class 2, and it needs others"
    assert undefined_because(seen(R2Score(), [1.0, 2.0], [3.0, 3.0])) == "its targets are all equal"


def test_examples_that_are_to_be_ignored_define_nothing() -> None:
    for metric in (tm.BinaryAUROC(ignore_index=-1), tm.BinaryRecall(ignore_index=-1)):
        assert undefined_because(seen(metric, [0.2, 0.7, 0.9], [0, 0, -1])) is not None
    labels = tm.MultilabelAUROC(2, ignore_index=-1)
    assert undefined_because(seen(labels, [[0.2, 0.5], [0.6, 0.5]], [[0, -1], [-1, 1]])) is not None


# ------------------------------------------------------------------------------------- means over classes


SCORES = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.3, 0.4, 0.3], [0.1, 0.8, 0.1], [0.5, 0.2, 0.3]])
TRUTH = torch.tensor([0, 0, 1, 1, 0])  # Class 2 has no example, and is predicted once.


@pytest.mark.parametrize("metric", [tm.MulticlassRecall, tm.MulticlassAccuracy])
def test_the_recall_of_a_class_without_examples_does_not_count(metric: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sk.balanced_accuracy_score(TRUTH, SCORES.argmax(1))
    assert value_of(seen(metric(3, average="macro"), SCORES, TRUTH)) == pytest.approx(expected)


@pytest.mark.parametrize("thresholds", [None, 200])
@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_the_area_of_a_class_without_examples_does_not_count(thresholds: int | None, average: Any) -> None:
    areas = [sk.roc_auc_score(index == TRUTH, SCORES[:, index]) for index in (0, 1)]
    expected = sum(areas) / 2 if average == "macro" else 0.6 * areas[0] + 0.4 * areas[1]
    metric = seen(tm.MulticlassAUROC(3, average=average, thresholds=thresholds), SCORES, TRUTH)
    assert value_of(metric) == pytest.approx(expected, abs=1e-6)
    assert metric.average == average


def test_a_label_that_nobody_has_does_not_count() -> None:
    scores, truth = torch.tensor([[0.9, 0.4], [0.2, 0.9], [0.8, 0.1]]), torch.tensor([[1, 0], [0, 0], [0, 0]])
    for metric, figure in (
        (tm.MultilabelAUROC(2), sk.roc_auc_score),
        (tm.MultilabelAveragePrecision(2), sk.average_precision_score),
    ):
        assert value_of(seen(metric, scores, truth)) == pytest.approx(figure(truth[:, 0], scores[:, 0]))
    f1 = seen(tm.MultilabelF1Score(2, average="macro"), scores, truth)
    assert value_of(f1) == pytest.approx(sk.f1_score(truth[:, 0], scores[:, 0] > 0.5))
    assert undefined_because(seen(tm.MultilabelF1Score(2, average="micro"), scores, truth * 0)) is not None


def test_classes_that_all_have_examples_are_left_to_torchmetrics() -> None:
    truth = torch.tensor([0, 2, 1, 1, 0])
    for make in (tm.MulticlassAUROC, tm.MulticlassRecall, tm.MulticlassSpecificity, tm.MulticlassF1Score):
        metric = seen(make(3, average="macro"), SCORES, truth)
        assert value_of(metric) == float(metric.compute())


@pytest.mark.parametrize("make", [tm.MulticlassMatthewsCorrCoef, tm.MulticlassCohenKappa])
def test_a_coefficient_of_all_classes_needs_two_of_them(make: Any) -> None:
    assert undefined_because(seen(make(3), SCORES, TRUTH)) is None
    assert undefined_because(seen(make(3), SCORES, torch.ones(5, dtype=torch.long))) is not None


class Optimistic(tm.BinaryAUROC):
    """A user's own, which has an opinion about one class."""

    def compute(self) -> Tensor:  # type: ignore[override]  # as torchmetrics' own
        return torch.tensor(0.5)


def test_a_class_that_computes_in_its_own_way_knows_best() -> None:
    assert value_of(seen(Optimistic(), [0.2, 0.7], [0, 0])) == 0.5


# ------------------------------------------------------------------------------------------- regressions


@pytest.mark.parametrize(
    "make",
    [R2Score, DefinedR2Score, ExplainedVariance, RelativeSquaredError, PearsonCorrCoef, SpearmanCorrCoef,
     ConcordanceCorrCoef, KendallRankCorrCoef],
)  # fmt: skip
def test_equal_targets_define_no_share_of_their_variance(make: Callable[[], Metric]) -> None:
    predictions = torch.linspace(0, 1, 7)
    for value in (0.0, 0.1, 3e5, -2e-6):
        assert math.isnan(value_of(seen(make(), predictions, torch.full((7,), value))))
    assert math.isnan(value_of(seen(make(), predictions[:1], predictions[:1])))
    metric = seen(make(), predictions, predictions.square() + 5)
    assert value_of(metric) == pytest.approx(float(metric.compute()), rel=1e-4)
    assert not math.isnan(value_of(seen(MeanSquaredError(), predictions, torch.ones(7))))


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e5])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_the_coefficient_of_determination_holds_in_any_unit(scale: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(50, generator=generator, dtype=torch.float64)
    said = truth + torch.randn(50, generator=generator, dtype=torch.float64)
    expected = sk.r2_score(truth, said)
    metric = RegressionTask().default_metrics(1)["r2"]
    for half in (slice(0, 20), slice(20, 50)):
        metric.update((said[half] + offset) * scale, (truth[half] + offset) * scale)
    assert value_of(metric) == pytest.approx(expected, rel=1e-6)
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)
    plain = seen(R2Score(), said.float() * scale, truth.float() * scale)
    assert value_of(plain) == pytest.approx(expected, rel=1e-3)


def test_an_output_whose_targets_are_equal_does_not_count() -> None:
    truth = torch.tensor([[1.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    said = torch.tensor([[1.5, 4.0], [2.0, 6.0], [3.0, 5.0]])
    for metric in (R2Score(), DefinedR2Score(), R2Score(multioutput="variance_weighted")):
        assert value_of(seen(metric, said, truth)) == pytest.approx(sk.r2_score(truth[:, 0], said[:, 0]))


def test_parts_that_are_equal_each_may_differ_together() -> None:
    for make in (SpearmanCorrCoef, ExplainedVariance, DefinedR2Score):
        first = seen(make(), [0.1, 0.3], [1.0, 1.0])
        first.merge_state(seen(make(), [0.4, 0.5], [2.0, 2.0]))
        assert undefined_because(first) is None
        second = seen(make(), [0.1, 0.3], [1.0, 1.0])
        second.merge_state(seen(make(), [0.4, 0.5], [1.0, 1.0]))
        assert undefined_because(second) is not None
