import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MulticlassF1Score

from hetfed_lightning import BinaryTask, MulticlassTask, MultilabelTask, RegressionTask, Task
from hetfed_lightning.tasks import TASKS, as_task


def test_names_and_tasks() -> None:
    for name in TASKS:
        assert as_task(name).kind == name
    task = BinaryTask()
    assert as_task(task) is task
    with pytest.raises(
        ValueError, match="expected one of multiclass, binary, multilabel, regression or a Task, got 'clas'"
    ):
        as_task("clas")  # type: ignore[arg-type]


# Losses by hand


def test_multiclass_loss_by_hand() -> None:
    # logits (0, ln 3): probabilities 1/4 and 3/4.
    outputs = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    assert float(MulticlassTask().loss(outputs, torch.tensor([0, 1]))) == pytest.approx(
        -(math.log(0.25) + math.log(0.75)) / 2
    )
    weighted = MulticlassTask(class_weights=[3.0, 1.0]).loss(outputs, torch.tensor([0, 1]))
    assert float(weighted) == pytest.approx(-(3 * math.log(0.25) + math.log(0.75)) / 4)
    smooth = MulticlassTask(label_smoothing=0.2).loss(outputs[:1], torch.tensor([1]))
    assert float(smooth) == pytest.approx(-(0.9 * math.log(0.75) + 0.1 * math.log(0.25)))


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_binary_loss_by_hand(shape: tuple[int, ...]) -> None:
    outputs, target = torch.tensor([0.0, math.log(3)]).reshape(shape), torch.tensor([1, 0]).reshape(shape)
    assert float(BinaryTask().loss(outputs, target)) == pytest.approx(-(math.log(0.5) + math.log(0.25)) / 2)
    weighted = BinaryTask(positive_weight=2.0).loss(outputs, target)
    assert float(weighted) == pytest.approx(-(2 * math.log(0.5) + math.log(0.25)) / 2)
    torch.testing.assert_close(BinaryTask().predictions(outputs), torch.tensor([0.5, 0.75]))


def test_multilabel_loss_is_the_mean_over_labels_and_samples() -> None:
    outputs, target = torch.randn(6, 2, generator=torch.Generator().manual_seed(2)), torch.eye(2).long().repeat(3, 1)
    expected = F.binary_cross_entropy(outputs.sigmoid(), target.float())
    torch.testing.assert_close(MultilabelTask().loss(outputs, target), expected)


@pytest.mark.promise("broadcast")
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_regression_loss_does_not_broadcast(shape: tuple[int, ...]) -> None:
    outputs, target = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 1.0, 1.0]).reshape(shape)
    assert float(RegressionTask().loss(outputs, target)) == pytest.approx((0 + 1 + 9) / 3)
    assert float(RegressionTask().loss(outputs.squeeze(1), target)) == pytest.approx(10 / 3)


def test_accuracy_by_hand() -> None:
    outputs = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0, 0.0, 0.0]])
    accuracy = MulticlassTask().metrics(3)["accuracy"]
    accuracy.update(MulticlassTask().predictions(outputs), torch.tensor([0, 1, 0]))
    assert float(accuracy.compute()) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("task", "target", "width", "words"),
    [
        (MulticlassTask(), torch.tensor([0.5, 1.0]), 3, "expected integer class labels, got float32"),
        (MulticlassTask(), torch.tensor([[0], [1]]), 3, r"got targets of shape \(n, 1\)"),
        (MulticlassTask(), torch.tensor([0, 3]), 3, "expected labels from 0 to 2, got 0 to 3"),
        (MulticlassTask(), torch.tensor([-1, 2]), 3, "got -1 to 2"),
        (BinaryTask(), torch.tensor([0, 2]), 1, "expected targets 0 or 1, got 2"),
        (BinaryTask(), torch.tensor([0, 1]), 2, "expected a head with 1 output for a binary task, got 2"),
        (MultilabelTask(), torch.tensor([[0, 1]]), 3, r"expected targets of shape \(n, 3\), got \(1, 2\)"),
        (MultilabelTask(), torch.tensor([[0.0, 0.5]]), 2, "expected targets 0 or 1, got 0.5"),
        (RegressionTask(), torch.zeros(4, 2), 1, r"expected 1 value\(s\) per example.*got 2"),
        (RegressionTask(), torch.tensor([1.0, math.nan, math.inf]), 1, "expected finite targets, got 2 that are not"),
    ],
)
def test_targets_that_do_not_fit(task: Task, target: Tensor, width: int, words: str) -> None:
    problem = task.target_problem(target, width)
    assert problem is not None
    with pytest.raises(ValueError, match=words):
        raise ValueError(problem)


@pytest.mark.parametrize(
    ("name", "target", "width", "counts"),
    [
        ("multiclass", [0, 2, 2], 4, [1, 0, 2, 0]),
        ("binary", [0, 1, 1], 1, [1, 2]),
        ("multilabel", [[1, 0], [1, 1]], 2, [2, 1]),
        ("regression", [0.5], 1, None),
    ],
)
def test_class_counts(name: Any, target: Any, width: int, counts: Any) -> None:
    found = as_task(name).class_counts(torch.tensor(target), width)
    assert (None if found is None else found.tolist()) == counts


def test_metrics_of_ones_own() -> None:
    task = MulticlassTask(metrics={"f1": MulticlassF1Score(3)})
    assert task.headline == "f1"
    assert task.higher_is_better
    assert set(task.metrics(3)) == {"f1"}
    assert task.metrics(3)["f1"] is not task.metrics(3)["f1"]
    error = RegressionTask(metrics={"mse": MeanSquaredError()})
    assert (error.headline, error.higher_is_better) == ("mse", False)
    assert MulticlassTask.headline == "accuracy"


def test_tasks_bring_nothing_into_a_state() -> None:
    task = MulticlassTask(class_weights=[1.0, 2.0], metrics={"f1": MulticlassF1Score(2)})
    assert not task.state_dict()
    assert task.double().loss(torch.zeros(1, 2).double(), torch.tensor([0])).dtype == torch.float64


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MulticlassTask(label_smoothing=1.0), "label_smoothing: expected a share"),
        (lambda: BinaryTask(positive_weight=0.0), "positive_weight: expected a number above 0, got 0.0"),
        (lambda: BinaryTask(positive_weight=math.nan), "got nan"),
    ],
)
def test_settings_out_of_range(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.filterwarnings("error")
def test_an_area_under_the_curve_of_one_class_is_undefined() -> None:
    metric = BinaryTask().default_metrics(1)["auroc"]
    metric.update(torch.tensor([0.2, 0.7]), torch.tensor([1, 1]))
    assert math.isnan(float(metric.compute()))
    metric.update(torch.tensor([0.1]), torch.tensor([0]))  # below both: ranked rightly
    assert float(metric.compute()) == 1.0


def test_which_way_is_better_is_asked_of_the_metric() -> None:
    regression = RegressionTask()
    assert (regression.prefers_higher("r2"), regression.prefers_higher("mae")) == (True, False)
    assert all(BinaryTask().prefers_higher(name) for name in ("accuracy", "auroc", "somebody_s_own"))
    own = MulticlassTask(metrics={"error": MeanSquaredError(), "share": MulticlassF1Score(3)})
    assert (own.headline, own.prefers_higher("error"), own.prefers_higher("share")) == ("error", False, True)


# Weights that follow the participant's own classes


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    targets = torch.tensor([0, 0, 0, 1, 2, 2])
    wanted = torch.from_numpy(compute_class_weight("balanced", classes=np.arange(3), y=targets.numpy())).float()
    task = MulticlassTask(class_weights="balanced")
    assert task.wants_fit
    task.fit(targets)
    outputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(task.loss(outputs, targets), F.cross_entropy(outputs, targets, wanted))
    # A class that the head knows and the data does not weighs nothing.
    wider = torch.randn(6, 4, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(task.loss(wider, targets), F.cross_entropy(wider, targets, F.pad(wanted, (0, 1))))


def test_balanced_binary_loss_by_hand() -> None:
    # One negative, three positives: weights 4 / 2 = 2 and 4 / 6 = 2/3. All logits 0: losses ln 2.
    task = BinaryTask(class_weights="balanced")
    task.fit(torch.tensor([0, 1, 1, 1]))
    losses, weights = task.example_losses(torch.zeros(2, 1), torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([2 * math.log(2), 2 / 3 * math.log(2)])
    assert weights.tolist() == [1.0, 1.0]
    assert float(task.loss(torch.zeros(2, 1), torch.tensor([0, 1]))) == pytest.approx(4 / 3 * math.log(2))


def test_weights_that_nobody_could_mean_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a weight for each class or 'balanced', got 'even'"):
        MulticlassTask(class_weights="even")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 'balanced' or None, got 'even'"):
        BinaryTask(class_weights="even")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give one of them"):
        BinaryTask(positive_weight=2.0, class_weights="balanced")
