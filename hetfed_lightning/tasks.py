"""What a participant predicts: the loss, the distillation loss and the metrics that belong together."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, Metric, R2Score
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    MulticlassAccuracy,
    MultilabelAccuracy,
    MultilabelF1Score,
)
from torchmetrics.utilities.data import dim_zero_cat

from hetfed_lightning.distillation import OutputKind, distillation_losses, soften
from hetfed_lightning.distillation.outputs import at_least_float32

TaskName = Literal["multiclass", "binary", "multilabel", "regression"]


class Task(nn.Module, ABC):
    """Loss, distillation loss and metrics of one kind of target.

    Args:
        metrics: Metrics by the name they are logged under, instead of the task's own. They receive what
            :meth:`predictions` returns and the targets. Give ``sync_on_compute=False`` metrics when several
            processes train: participants are not hosted everywhere.
    """

    kind: OutputKind
    """How the outputs are softened when they teach."""

    headline: str
    """The metric that summaries, tables and progress bars show."""

    higher_is_better: bool = True
    """Whether a larger value of the headline metric is better."""

    def __init__(self, metrics: Mapping[str, Metric] | None = None) -> None:
        super().__init__()
        # A plain dictionary, so that metrics own no parameters and appear in no state.
        self._custom_metrics = dict(metrics) if metrics else None
        if self._custom_metrics and self.headline not in self._custom_metrics:
            self.headline = next(iter(self._custom_metrics))
            self.higher_is_better = self._custom_metrics[self.headline].higher_is_better is not False

    @abstractmethod
    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Supervised loss, a scalar in float32 at least: the mean over the batch."""

    def example_losses(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each example and its weight: :meth:`loss` is the sum of the ones over the sum of the others.

        A task of one's own need not have it; without, its participants train one after another.

        Args:
            outputs: Shape ``(B, C)``.
            target: Of B examples.

        Returns:
            Losses times weights, shape ``(B,)``, and the weights, shape ``(B,)``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss by example.")

    @abstractmethod
    def default_metrics(self, width: int) -> dict[str, Metric]:
        """Fresh metrics for outputs of ``width`` columns, by logged name."""

    @abstractmethod
    def target_problem(self, target: Tensor, width: int) -> str | None:
        """What is wrong with ``target`` for a head of ``width`` outputs, or None."""

    def metrics(self, width: int) -> dict[str, Metric]:
        """Fresh metrics for one participant and one data set, by logged name."""
        if self._custom_metrics is not None:
            return {name: metric.clone() for name, metric in self._custom_metrics.items()}
        return self.default_metrics(width)

    def prefers_higher(self, metric: str) -> bool:
        """Whether a larger value of a metric is better, as torchmetrics says of it.

        Args:
            metric: Its logged name. One that is none of the task's, logged by a participant of one's own, counts as
                better the larger it is.
        """
        if metric == self.headline:
            return self.higher_is_better
        made = self.metrics(2).get(metric)  # The width makes no difference to what a metric is.
        return made is None or made.higher_is_better is not False

    def predictions(self, outputs: Tensor) -> Tensor:
        """What metrics and users see: probabilities, or values in a regression."""
        return soften(outputs, 1.0, self.kind)

    def metric_target(self, target: Tensor) -> Tensor:
        """Targets in the shape of :meth:`predictions`, and like them in float32 at least."""
        return at_least_float32(target) if target.is_floating_point() else target

    def distillation_loss(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Loss against an ensemble's softened targets, of the size that its temperature asks for."""
        return self.example_distillation_losses(outputs, targets, temperature).mean()

    def example_distillation_losses(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Loss of each example, whose mean :meth:`distillation_loss` is, shape ``(B,)``.

        A task with a ``distillation_loss`` of its own need not have it; without, its participants distil one after
        another.

        Args:
            outputs: Shape ``(B, C)``.
            targets: Shape ``(B, C)``, softened at the temperature.
            temperature: Finite and above 0.
        """
        return distillation_losses(outputs, targets, temperature, self.kind)

    def class_counts(self, target: Tensor, width: int) -> Tensor | None:
        """Examples per class (per label for multilabel), or None where there are no classes."""
        del target, width
        return None


class MulticlassTask(Task):
    """One of C classes: logits ``(B, C)``, integer targets ``(B,)``, cross-entropy.

    Args:
        class_weights: Weight of each class in the loss, C of them.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        metrics: See :class:`Task`.
    """

    kind: OutputKind = "multiclass"
    headline = "accuracy"

    def __init__(
        self,
        class_weights: list[float] | None = None,
        label_smoothing: float = 0.0,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__(metrics)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected a share in [0, 1), got {label_smoothing}.")
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of logits ``(B, C)`` and classes ``(B,)``."""
        outputs = at_least_float32(outputs)
        weights = self._weights(outputs.dtype)
        return F.cross_entropy(outputs, target, weights, label_smoothing=self.label_smoothing)

    def example_losses(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropies of logits ``(B, C)`` and classes ``(B,)``, and the weights of those classes."""
        outputs = at_least_float32(outputs)
        weights, smoothing = self._weights(outputs.dtype), self.label_smoothing
        losses = F.cross_entropy(outputs, target, weights, label_smoothing=smoothing, reduction="none")
        return losses, torch.ones_like(losses) if weights is None else weights[target]

    def _weights(self, dtype: torch.dtype) -> Tensor | None:
        return None if self.class_weights is None else self.get_buffer("class_weights").to(dtype)

    def default_metrics(self, width: int) -> dict[str, Metric]:
        """Share of examples classified rightly."""
        return {"accuracy": MulticlassAccuracy(width, average="micro", sync_on_compute=False, validate_args=False)}

    def target_problem(self, target: Tensor, width: int) -> str | None:
        """Anything but integers from 0 to C - 1, one per example."""
        if target.is_floating_point():
            return f"expected integer class labels, got {str(target.dtype).removeprefix('torch.')}"
        if target.ndim != 1:
            return f"expected one label per example, got targets of shape (n, {', '.join(map(str, target.shape[1:]))})"
        if len(target) and (int(target.min()) < 0 or int(target.max()) >= width):
            return f"expected labels from 0 to {width - 1}, got {int(target.min())} to {int(target.max())}"
        return None

    def class_counts(self, target: Tensor, width: int) -> Tensor | None:
        """Examples per class, shape ``(C,)``."""
        return torch.bincount(target.cpu().long(), minlength=width)


class BinaryTask(Task):
    """Yes or no: one logit ``(B, 1)`` or ``(B,)``, targets 0 or 1, binary cross-entropy.

    Args:
        positive_weight: Weight of the positive examples in the loss.
        metrics: See :class:`Task`.
    """

    kind: OutputKind = "binary"
    headline = "accuracy"

    def __init__(self, positive_weight: float | None = None, metrics: Mapping[str, Metric] | None = None) -> None:
        super().__init__(metrics)
        if positive_weight is not None and not positive_weight > 0:
            raise ValueError(f"positive_weight: expected a number above 0, got {positive_weight}.")
        self.positive_weight = positive_weight

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy of logits ``(B, 1)`` or ``(B,)``."""
        logits = _flat(at_least_float32(outputs))
        return F.binary_cross_entropy_with_logits(
            logits, _flat(target).to(logits.dtype), pos_weight=self._weight(logits)
        )

    def example_losses(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Binary cross-entropies of logits ``(B, 1)`` or ``(B,)``."""
        logits = at_least_float32(outputs).reshape(len(outputs))
        wanted = target.reshape(len(outputs)).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=self._weight(logits), reduction="none")
        return losses, torch.ones_like(losses)

    def _weight(self, logits: Tensor) -> Tensor | None:
        return None if self.positive_weight is None else logits.new_tensor(self.positive_weight)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probability of the positive class, shape ``(B,)``."""
        return _flat(super().predictions(_flat(outputs).unsqueeze(1)))

    def metric_target(self, target: Tensor) -> Tensor:
        """Targets of shape ``(B,)``."""
        return _flat(target)

    def default_metrics(self, width: int) -> dict[str, Metric]:
        """Accuracy and area under the ROC curve."""
        del width
        return {
            "accuracy": BinaryAccuracy(sync_on_compute=False),
            "auroc": DefinedAUROC(sync_on_compute=False),
        }

    def target_problem(self, target: Tensor, width: int) -> str | None:
        """Anything but 0 and 1, or a head of more than one output."""
        if width != 1:
            return f"expected a head with 1 output for a binary task, got {width} (use task 'multiclass' for classes)"
        return _zero_one_problem(target)

    def class_counts(self, target: Tensor, width: int) -> Tensor | None:
        """Negative and positive examples, shape ``(2,)``."""
        del width
        return torch.bincount(_flat(target).cpu().long(), minlength=2)


class MultilabelTask(Task):
    """Any of C labels: logits ``(B, C)``, targets of the same shape in {0, 1}, binary cross-entropy."""

    kind: OutputKind = "multilabel"
    headline = "accuracy"

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy, the mean over examples and labels."""
        outputs = at_least_float32(outputs)
        return F.binary_cross_entropy_with_logits(outputs, target.to(outputs.dtype))

    def example_losses(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Binary cross-entropies, the mean over labels."""
        outputs = at_least_float32(outputs)
        losses = F.binary_cross_entropy_with_logits(outputs, target.to(outputs.dtype), reduction="none").mean(1)
        return losses, torch.ones_like(losses)

    def default_metrics(self, width: int) -> dict[str, Metric]:
        """Accuracy and F1 over all labels."""
        return {
            "accuracy": MultilabelAccuracy(width, average="micro", sync_on_compute=False),
            "f1": MultilabelF1Score(width, average="micro", sync_on_compute=False),
        }

    def target_problem(self, target: Tensor, width: int) -> str | None:
        """Anything but 0 and 1 in C columns."""
        if target.ndim != 2 or target.shape[1] != width:
            return f"expected targets of shape (n, {width}), got {tuple(target.shape)}"
        return _zero_one_problem(target)

    def class_counts(self, target: Tensor, width: int) -> Tensor | None:
        """Positive examples of each label, shape ``(C,)``."""
        del width
        return target.cpu().long().sum(dim=0)


class RegressionTask(Task):
    """Values: outputs ``(B, D)``, targets ``(B, D)`` or ``(B,)`` where D is 1, squared error."""

    kind: OutputKind = "regression"
    headline = "r2"

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Mean squared error."""
        outputs = at_least_float32(outputs)
        return F.mse_loss(outputs, target.reshape(outputs.shape).to(outputs.dtype))

    def example_losses(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Squared errors, the mean over columns."""
        outputs = at_least_float32(outputs)
        losses = (outputs - target.reshape(outputs.shape).to(outputs.dtype)).square().reshape(len(outputs), -1).mean(1)
        return losses, torch.ones_like(losses)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Values, ``(B,)`` where there is one per example."""
        return _flat(super().predictions(outputs))

    def metric_target(self, target: Tensor) -> Tensor:
        """Targets, ``(B,)`` where there is one value per example."""
        return _flat(super().metric_target(target))

    def default_metrics(self, width: int) -> dict[str, Metric]:
        """Coefficient of determination and mean absolute error."""
        del width
        return {"r2": R2Score(sync_on_compute=False), "mae": MeanAbsoluteError(sync_on_compute=False)}

    def target_problem(self, target: Tensor, width: int) -> str | None:
        """Another number of columns than the head has outputs, or values that are not finite."""
        columns = 1 if target.ndim == 1 else target.shape[1]
        if columns != width:
            return f"expected {width} value(s) per example, as many as the head's outputs, got {columns}"
        if target.is_floating_point() and not bool(torch.isfinite(target).all()):
            return f"expected finite targets, got {int((~torch.isfinite(target)).sum())} that are not"
        return None


class DefinedAUROC(BinaryAUROC):
    """Area under the ROC curve; NaN where only one class was seen, of which torchmetrics says 0.

    A small hospital's validation set may well hold one class, and a made-up 0 would be averaged with real figures.
    """

    def compute(self) -> Tensor:  # type: ignore[override]  # torchmetrics' own AUROC departs from its base like this
        """The area, or NaN."""
        targets = dim_zero_cat(self.target)
        if bool((targets == targets[:1]).all()):
            return torch.full((), math.nan)
        area: Tensor = super().compute()
        return area


TASKS: dict[TaskName, type[Task]] = {
    "multiclass": MulticlassTask,
    "binary": BinaryTask,
    "multilabel": MultilabelTask,
    "regression": RegressionTask,
}


def as_task(task: Task | TaskName) -> Task:
    """The task itself, or the one that a name stands for.

    Raises:
        ValueError: If the name is unknown.
    """
    if isinstance(task, Task):
        return task
    if task not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)} or a Task, got {task!r}.")
    return TASKS[task]()


def _flat(tensor: Tensor) -> Tensor:
    return tensor.squeeze(1) if tensor.ndim == 2 and tensor.shape[1] == 1 else tensor


def _zero_one_problem(target: Tensor) -> str | None:
    wrong = (target != 0) & (target != 1)
    if bool(wrong.any()):
        return f"expected targets 0 or 1, got {target[wrong][0].item()}"
    return None
