"""Task with several classes, of which each example has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from hetfed_lightning.distillation.outputs import at_least_float32
from hetfed_lightning.tasks.targets import balanced_weights, saved_weights
from hetfed_lightning.tasks.task import Task


class MulticlassTask(Task):
    """One of C classes: logits ``(B, C)``, integer targets ``(B,)`` in 0 to C - 1, cross-entropy.

    Args:
        class_weights: Weight of each class in the loss, C of them; ``"balanced"`` weighs the classes by the
            participant's own training targets, so that all classes have the same total weight
            (:func:`~hetfed_lightning.tasks.targets.balanced_weights`).
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        metrics: See :class:`Task`.

    Raises:
        ValueError: If the label smoothing is out of its range or ``class_weights`` is another word.
    """

    kind = "multiclass"
    headline = "accuracy"

    def __init__(
        self,
        class_weights: list[float] | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__(metrics)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected a share in [0, 1), got {label_smoothing}.")
        self.label_smoothing = label_smoothing
        if isinstance(class_weights, str) and class_weights != "balanced":
            raise ValueError(f"class_weights: expected a weight for each class or 'balanced', got {class_weights!r}.")
        self.wants_fit = class_weights == "balanced"
        weights = torch.tensor(class_weights) if isinstance(class_weights, list) else None
        self.register_buffer("class_weights", weights, persistent=False)
        self._some_weigh_nothing = weights is not None and bool((weights == 0).any())

    def fit(self, targets: Tensor) -> None:
        """Set the class weights by the frequencies of the classes; does nothing without ``class_weights="balanced"``.

        Args:
            targets: Classes, shape ``(N,)``, integers.
        """
        if self.wants_fit:
            weights = balanced_weights(torch.bincount(targets.cpu().long()))
            self.register_buffer("class_weights", weights.to(targets.device), persistent=False)
            self._some_weigh_nothing = True  # The head may have more classes than occur in the targets.

    def learned(self) -> dict[str, Any] | None:
        """Balanced weights of the classes under ``"class_weights"``; empty unless balanced, None before :meth:`fit`."""
        if not self.wants_fit:
            return {}
        return None if self.class_weights is None else {"class_weights": self.get_buffer("class_weights").tolist()}

    def take_up(self, learned: Mapping[str, Any]) -> None:
        """Set the class weights that an earlier :meth:`fit` found; does nothing without ``class_weights="balanced"``.

        Args:
            learned: Finite weights of at least 0 under ``"class_weights"``, one per class.

        Raises:
            ValueError: If they are missing or no such numbers.
        """
        if self.wants_fit:
            weights, known = saved_weights(learned, "class_weights"), self.class_weights
            weights = weights if known is None else weights.to(self.get_buffer("class_weights").device)
            self.register_buffer("class_weights", weights, persistent=False)
            self._some_weigh_nothing = True

    def weighed(self, target: Tensor) -> int:
        """Number of examples whose class has a weight above 0.

        Args:
            target: Classes, shape ``(B,)``, integers.
        """
        if self.class_weights is None or not self._some_weigh_nothing:
            return len(target)
        known = self.get_buffer("class_weights").cpu().nonzero().flatten()
        return int(torch.isin(target.cpu(), known).sum())

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, a scalar: the weighted mean over the batch.

        Args:
            outputs: Logits, shape ``(B, C)``.
            target: Classes, shape ``(B,)``, integers.
        """
        outputs = at_least_float32(outputs)
        weights = self._weights(outputs)
        return F.cross_entropy(outputs, target, weights, label_smoothing=self.label_smoothing)

    def example_losses(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each example, and the weight of its class.

        Args:
            outputs: Logits, shape ``(B, C)``.
            target: Classes, shape ``(B,)``, integers.

        Returns:
            Losses times weights, shape ``(B,)``, and the weights, shape ``(B,)``; ones without class weights.
        """
        outputs = at_least_float32(outputs)
        weights, smoothing = self._weights(outputs), self.label_smoothing
        losses = F.cross_entropy(outputs, target, weights, label_smoothing=smoothing, reduction="none")
        return losses, torch.ones_like(losses) if weights is None else weights[target]

    def _weights(self, outputs: Tensor) -> Tensor | None:
        if self.class_weights is None:
            return None
        weights = self.get_buffer("class_weights").to(outputs)
        # The weights are of the classes that occur; the head may have more.
        return F.pad(weights, (0, outputs.shape[-1] - len(weights))) if self.wants_fit else weights

    def default_metrics(self, width: int) -> dict[str, Metric]:
        """Share of examples classified correctly, as ``"accuracy"``, for logits ``(B, width)``."""
        return {"accuracy": MulticlassAccuracy(width, average="micro", sync_on_compute=False, validate_args=False)}

    def target_problem(self, target: Tensor, width: int) -> str | None:
        """Description of targets other than one integer from 0 to ``width - 1`` per example; None without fault.

        Args:
            target: Classes, shape ``(N,)``.
            width: Number of classes C.
        """
        if target.is_floating_point():
            return f"expected integer class labels, got {str(target.dtype).removeprefix('torch.')}"
        if target.ndim != 1:
            return f"expected one label per example, got targets of shape (n, {', '.join(map(str, target.shape[1:]))})"
        if len(target) and (int(target.min()) < 0 or int(target.max()) >= width):
            return f"expected labels from 0 to {width - 1}, got {int(target.min())} to {int(target.max())}"
        return None

    def class_counts(self, target: Tensor, width: int) -> Tensor | None:
        """Examples per class, shape ``(C,)``, int64, on the CPU.

        Args:
            target: Classes, shape ``(N,)``, integers in 0 to C - 1.
            width: Number of classes C.
        """
        return torch.bincount(target.cpu().long(), minlength=width)
