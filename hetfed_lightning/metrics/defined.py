"""Values of torchmetrics' metrics where the data define them, and the reason where they do not.

On a data set with one class, torchmetrics returns 0 for the area under the ROC curve, for a correlation coefficient,
and for the recall of a class without examples. These zeros are no measurements, and a mean over sites would count them.
Here a metric is undefined where the targets leave it no more than one value, whatever is predicted. That depends on the
targets alone, so that a mean is over the same sites in every round; it is read from the metric's own states.

Averages over classes (``average="macro"``) are those of the classes that the targets define, as in scikit-learn's
``balanced_accuracy_score``; torchmetrics counts the others as 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum, auto
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import ExplainedVariance, Metric, R2Score, RelativeSquaredError
from torchmetrics.classification import (
    BinaryConfusionMatrix,
    BinaryPrecisionRecallCurve,
    BinaryStatScores,
    MulticlassConfusionMatrix,
    MulticlassPrecisionRecallCurve,
    MulticlassStatScores,
    MultilabelConfusionMatrix,
    MultilabelPrecisionRecallCurve,
    MultilabelStatScores,
)
from torchmetrics.regression import KendallRankCorrCoef, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.utilities.data import dim_zero_cat

from hetfed_lightning.metrics.binary import BalancedAccuracy, DefinedAUROC
from hetfed_lightning.metrics.regression import NOISE, determination, sum_of_squares


class Needs(Enum):
    """Examples without which a figure of one class (or label) has one value at most."""

    POSITIVE = auto()
    NEGATIVE = auto()
    BOTH = auto()


_OF_A_LABEL: Mapping[str, Needs] = {
    "AUROC": Needs.BOTH,
    "AveragePrecision": Needs.BOTH,
    "CohenKappa": Needs.BOTH,
    "EER": Needs.BOTH,
    "F1Score": Needs.POSITIVE,
    "FBetaScore": Needs.POSITIVE,
    "JaccardIndex": Needs.POSITIVE,
    "LogAUC": Needs.BOTH,
    "MatthewsCorrCoef": Needs.BOTH,
    "NegativePredictiveValue": Needs.BOTH,
    "Precision": Needs.BOTH,
    "Recall": Needs.POSITIVE,
    "Specificity": Needs.NEGATIVE,
}
"""Needs by the name of torchmetrics' class, without ``Binary`` or ``Multilabel``."""

_OF_A_CLASS: Mapping[str, Needs] = {
    "AUROC": Needs.BOTH,
    "Accuracy": Needs.POSITIVE,
    "AveragePrecision": Needs.BOTH,
    "CohenKappa": Needs.BOTH,
    "EER": Needs.BOTH,
    "LogAUC": Needs.BOTH,
    "MatthewsCorrCoef": Needs.BOTH,
    "Recall": Needs.POSITIVE,
    "Specificity": Needs.NEGATIVE,
}
"""Needs by the name of torchmetrics' class, without ``Multiclass``.

For figures that are not listed, torchmetrics leaves out a class that has no example and is never predicted; a false
prediction of such a class is an error like any other.
"""

_OURS: Mapping[type[Metric], Needs] = {BalancedAccuracy: Needs.BOTH, DefinedAUROC: Needs.BOTH}

_COUNTED = (BinaryStatScores, MulticlassStatScores, MultilabelStatScores)
_CURVES = (BinaryPrecisionRecallCurve, MulticlassPrecisionRecallCurve, MultilabelPrecisionRecallCurve)
_CONFUSED = (BinaryConfusionMatrix, MulticlassConfusionMatrix, MultilabelConfusionMatrix)
_MULTICLASS = (MulticlassStatScores, MulticlassPrecisionRecallCurve, MulticlassConfusionMatrix)
_WHOLE = frozenset({"CohenKappa", "MatthewsCorrCoef"})
"""Figures of all classes together, which two classes suffice to define."""


class _Examples(NamedTuple):
    """Numbers of examples that a metric has seen, by class or label: shape ``(C,)``, or ``()`` for binary ones."""

    positive: Tensor
    negative: Tensor

    def together(self) -> _Examples:
        """Sums over all labels, shape ``()``."""
        return _Examples(self.positive.sum(), self.negative.sum())


def undefined_because(metric: Metric) -> str | None:
    """Reason why a metric has no value for the data it has seen; None where it has one, or where that is unknown.

    Args:
        metric: A metric of torchmetrics or of this package. A user's class with a ``compute`` of its own has a value as
            soon as it has seen an example.
    """
    if not metric.update_called:
        return "it has seen no example"
    needs = _needs(type(metric))
    if needs is not None:
        found = _examples(metric)
        if found is None or bool(_defined(found, needs).any()):
            return None
        return _said(found, needs)
    return "its targets are all equal" if _is_constant(metric) else None


def value_of(metric: Metric) -> float:
    """Value of a metric over the classes that the data define; NaN where they define none.

    Args:
        metric: A metric whose value is a single number.
    """
    if undefined_because(metric) is not None:
        return math.nan
    needs, average = _needs(type(metric)), getattr(metric, "average", None)
    found = _examples(metric) if needs is not None and average in {"macro", "weighted"} else None
    if needs is not None and found is not None and found.positive.ndim and _name_of(type(metric)) not in _WHOLE:
        defined = _defined(found, needs)
        if not bool(defined.all()):
            shares = found.positive.double() if average == "weighted" else torch.ones_like(defined, dtype=torch.double)
            return _mean_over(metric, shares * defined)
    if isinstance(metric, R2Score) and _is_torchmetrics(type(metric)):
        return float(determination(metric))
    return float(metric.compute())


def _mean_over(metric: Any, shares: Tensor) -> float:
    """Mean of a metric's values by class, each of which has a share."""
    before = metric.average
    metric.average = "none"
    try:
        by_class: Tensor = type(metric).compute(metric)  # Past torchmetrics' cache of the last value.
    finally:
        metric.average = before
    heard = shares > 0
    total = shares[heard].sum()
    return float((by_class[heard].double() * shares[heard]).sum() / total) if total else math.nan


def _kind(metric: Metric) -> type[Metric]:
    return type(metric)


@cache
def _needs(kind: type[Metric]) -> Needs | None:
    """Needs of a class of metrics; None for one that is always defined, or unknown."""
    for ours, needs in _OURS.items():
        if issubclass(kind, ours):
            return needs if kind.compute is ours.compute else None
    if not issubclass(kind, (*_COUNTED, *_CURVES, *_CONFUSED)) or not _is_torchmetrics(kind):
        return None
    return (_OF_A_CLASS if issubclass(kind, _MULTICLASS) else _OF_A_LABEL).get(_name_of(kind))


@cache
def _is_torchmetrics(kind: type[Metric]) -> bool:
    """True if torchmetrics (or this package) computes the value, in the class itself or one that it inherits from."""
    computes = next(one for one in kind.__mro__ if "compute" in vars(one))
    return computes.__module__.startswith(("torchmetrics.", "hetfed_lightning.metrics."))


@cache
def _name_of(kind: type[Metric]) -> str:
    """The name of torchmetrics' class, less the kind of targets."""
    name = next(one.__name__ for one in kind.__mro__ if one.__module__.startswith("torchmetrics."))
    for prefix in ("Binary", "Multiclass", "Multilabel"):
        name = name.removeprefix(prefix)
    return name


def _examples(metric: Any) -> _Examples | None:
    """Numbers of examples in a classifier's metric; None if it keeps them by example, or over all classes together."""
    if isinstance(metric, _COUNTED):
        return _of_counts(metric)
    if isinstance(metric, _CURVES):
        return _of_curve(metric)
    if isinstance(metric, MulticlassConfusionMatrix):
        positive = metric.confmat.sum(1)
        return _Examples(positive, positive.sum() - positive)
    found = _by_truth(metric.confmat)
    return found.together() if _name_of(_kind(metric)) in _WHOLE else found


def _of_counts(metric: Any) -> _Examples | None:
    if not all(isinstance(getattr(metric, state), Tensor) for state in ("tp", "fp", "tn", "fn")):
        return None
    if isinstance(metric, MulticlassStatScores) and getattr(metric, "average", None) == "micro":
        return None
    found = _Examples(metric.tp + metric.fn, metric.tn + metric.fp)
    return found.together() if isinstance(metric, BinaryStatScores) else found


def _by_truth(confused: Tensor) -> _Examples:
    """Examples of confusion matrices, shape ``(..., 2, 2)``, whose rows are what is true."""
    negative, positive = confused.sum(-1).unbind(-1)
    return _Examples(positive, negative)


def _of_curve(metric: Any) -> _Examples | None:
    is_micro = getattr(metric, "average", None) == "micro"
    if isinstance(metric, MulticlassPrecisionRecallCurve):
        if is_micro:
            return None
        if metric.thresholds is not None:  # Every threshold counts the same examples.
            return _by_truth(metric.confmat[0])
        positive = torch.bincount(dim_zero_cat(metric.target).flatten().long(), minlength=metric.num_classes)
        return _Examples(positive, positive.sum() - positive)
    if metric.thresholds is not None:
        found = _by_truth(metric.confmat[0])
    else:
        targets = dim_zero_cat(metric.target)
        heard = torch.ones_like(targets) if metric.ignore_index is None else targets != metric.ignore_index
        found = _Examples(((targets == 1) * heard).sum(0), ((targets == 0) * heard).sum(0))
    return found.together() if is_micro else found


def _defined(found: _Examples, needs: Needs) -> Tensor:
    """Mask of the classes (or labels) with the examples that are needed, shape ``(C,)`` or ``()``."""
    positive, negative = found.positive > 0, found.negative > 0
    return {Needs.POSITIVE: positive, Needs.NEGATIVE: negative, Needs.BOTH: positive & negative}[needs]


def _said(found: _Examples, needs: Needs) -> str:
    """Reason why no class has the examples that are needed, for the log."""
    if found.positive.ndim == 0:
        count = int(found.positive + found.negative)
        only = "positive" if int(found.positive) else "negative"
        wanted = {Needs.POSITIVE: "positive ones", Needs.NEGATIVE: "negative ones", Needs.BOTH: "both kinds"}[needs]
        return f"its {count} examples are all {only}, and it needs {wanted}"
    present = [index for index, count in enumerate(found.positive.tolist()) if count]
    if len(present) == 1:
        return f"its {int(found.positive.sum())} examples are all of class {present[0]}, and it needs others"
    return "no class of its examples has what it needs"


def _is_constant(metric: Any) -> bool:
    """True if the targets in a metric of regressions are all equal; False where its states do not tell."""
    if not _is_torchmetrics(_kind(metric)):
        return False
    if isinstance(metric, (R2Score, RelativeSquaredError)):
        around = sum_of_squares(metric.sum_squared_error, metric.sum_error, torch.as_tensor(metric.total))
    elif isinstance(metric, ExplainedVariance):
        around = sum_of_squares(metric.sum_squared_target, metric.sum_target, metric.num_obs)
    elif isinstance(metric, PearsonCorrCoef):  # Its states have a row for each process that saw a part.
        counts, means, spread = (
            state.reshape(-1, metric.num_outputs).double() for state in (metric.n_total, metric.mean_y, metric.var_y)
        )
        mean = (counts * means).sum(0) / counts.sum(0)
        around = (spread + counts * (means - mean) ** 2).sum(0) - NOISE[4] ** 2 * counts.sum(0) * mean**2
    elif isinstance(metric, (SpearmanCorrCoef, KendallRankCorrCoef)):
        targets = dim_zero_cat(metric.target)
        around = (targets != targets[:1]).sum(0)
    else:
        return False
    return not bool((around > 0).any())
