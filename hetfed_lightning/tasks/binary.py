"""Task with two classes, negative (0) and positive (1), and one logit per example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryAccuracy

from hetfed_lightning.distillation.outputs import at_least_float32
from hetfed_lightning.metrics import DefinedAUROC
from hetfed_lightning.tasks.targets import balanced_weights, flat, saved_weights, zero_one_problem
from hetfed_lightning.tasks.task import Task


class BinaryTask(Task):
    """Two classes: one logit ``(B, 1)`` or ``(B,)``, targets 0 or 1 of either shape, binary cross-entropy.

    Args:
        positive_weight: Factor of the positive examples in the loss, above 0; None for 1.
        metrics: See :class:`Task`.
        class_weights: ``"balanced"`` weighs negative and positive examples by the participant's own training targets,
            so that both classes have the same total weight (:func:`~hetfed_lightning.tasks.targets.balanced_weights`).
            Excludes ``positive_weight``.

    Raises:
        ValueError: If a weight is not above 0, ``class_weights`` is another word, or both weights are given.
    """

    kind = "binary"
    headline = "accuracy"

    balance: Tensor
    """Weights of negative and positive examples in the loss, shape ``(2,)``; ones unless balanced."""

    def __init__(
        self,
        positive_weight: float | None = None,
        metrics: Mapping[str, Metric] | None = None,
        class_weights: Literal["balanced"] | None = None,
    ) -> None:
        super().__init__(metrics)
        if class_weights not in {None, "balanced"}:
            raise ValueError(f"class_weights: expected 'balanced' or None, got {class_weights!r}.")
        if positive_weight is not None and class_weights is not None:
            raise ValueError("positive_weight and class_weights both weigh the positive examples; give one of them.")
        if positive_weight is not None and not positive_weight > 0:
            raise ValueError(f"positive_weight: expected a number above 0, got {positive_weight}.")
        self.positive_weight = positive_weight
        self.wants_fit = class_weights == "balanced"
        self.register_buffer("balance", torch.ones(2), persistent=False)
        self._is_fitted = self._some_weigh_nothing = False

    def fit(self, targets: Tensor) -> None:
        """Set the class weights by the frequencies of the classes; does nothing without ``class_weights="balanced"``.

        Args:
            targets: Shape ``(N,)`` or ``(N, 1)``, 0 or 1.
        """
        if self.wants_fit:
            self._balance_by(balanced_weights(torch.bincount(flat(targets).cpu().long(), minlength=2)))

    def _balance_by(self, weights: Tensor) -> None:
        self.balance.copy_(weights)
        self._is_fitted, self._some_weigh_nothing = True, bool((weights == 0).any())

    def learned(self) -> dict[str, Any] | None:
        """Weights of negative and positive examples under ``"class_weights"``, two numbers; empty unless balanced."""
        if not self.wants_fit:
            return {}
        return {"class_weights": self.balance.tolist()} if self._is_fitted else None

    def take_up(self, learned: Mapping[str, Any]) -> None:
        """Set the class weights that an earlier :meth:`fit` found; does nothing without ``class_weights="balanced"``.

        Args:
            learned: Two finite weights of at least 0 under ``"class_weights"``, negative first.

        Raises:
            ValueError: If they are missing, not two, or no such numbers.
        """
        if self.wants_fit:
            weights = saved_weights(learned, "class_weights")
            if len(weights) != 2:
                raise ValueError(f"expected 2 weights under 'class_weights', got {len(weights)}")
            self._balance_by(weights)

    def weighed(self, target: Tensor) -> int:
        """Number of examples B, or 0 where all of them have weight 0; the loss is divided by B.

        Args:
            target: Shape ``(B,)`` or ``(B, 1)``, 0 or 1.
        """
        if self._some_weigh_nothing and not bool(self.balance.cpu()[flat(target).cpu().long()].any()):
            return 0
        return len(target)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy, a scalar: the sum of the weighted losses over B.

        Args:
            outputs: Logits, shape ``(B, 1)`` or ``(B,)``.
            target: Shape ``(B,)`` or ``(B, 1)``, 0 or 1.
        """
        logits = flat(at_least_float32(outputs))
        wanted = flat(target).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(
            logits, wanted, self._balance(wanted), pos_weight=self._weight(logits)
        )

    def example_losses(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy of each example, and its weight.

        Args:
            outputs: Logits, shape ``(B, 1)`` or ``(B,)``.
            target: Shape ``(B,)`` or ``(B, 1)``, 0 or 1.

        Returns:
            Losses times class weights, shape ``(B,)``, and ones, shape ``(B,)``.
        """
        logits = at_least_float32(outputs).reshape(len(outputs))
        wanted = target.reshape(len(outputs)).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(
            logits, wanted, self._balance(wanted), pos_weight=self._weight(logits), reduction="none"
        )
        return losses, torch.ones_like(losses)

    def _weight(self, logits: Tensor) -> Tensor | None:
        return None if self.positive_weight is None else logits.new_tensor(self.positive_weight)

    def _balance(self, wanted: Tensor) -> Tensor | None:
        """Weight of each example, shape ``(B,)``."""
        if not self.wants_fit:
            return None
        negative, positive = self.balance.to(wanted).unbind()
        return negative + (positive - negative) * wanted

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probability of the positive class, shape ``(B,)``, of logits ``(B, 1)`` or ``(B,)``."""
        return flat(super().predictions(flat(outputs).unsqueeze(1)))

    def metric_target(self, target: Tensor) -> Tensor:
        """Targets of shape ``(B,)``, of targets ``(B,)`` or ``(B, 1)``."""
        return flat(target)

    def default_metrics(self, width: int) -> dict[str, Metric]:
        """Accuracy and area under the ROC curve, as ``"accuracy"`` and ``"auroc"``."""
        del width
        return {
            "accuracy": BinaryAccuracy(sync_on_compute=False),
            "auroc": DefinedAUROC(sync_on_compute=False),
        }

    def target_problem(self, target: Tensor, width: int) -> str | None:
        """Description of targets other than one 0 or 1 per example, or of a head wider than 1; None without fault.

        Args:
            target: Shape ``(N,)`` or ``(N, 1)``.
            width: Width of the head's outputs.
        """
        if width != 1:
            return f"expected a head with 1 output for a binary task, got {width} (use task 'multiclass' for classes)"
        if flat(target).ndim != 1:
            return f"expected one target per example, got targets of shape {tuple(target.shape)}"
        return zero_one_problem(target)

    def class_counts(self, target: Tensor, width: int) -> Tensor | None:
        """Numbers of negative and of positive examples, shape ``(2,)``, int64, on the CPU.

        Args:
            target: Shape ``(N,)`` or ``(N, 1)``, 0 or 1.
            width: Unused; there are two classes.
        """
        del width
        return torch.bincount(flat(target).cpu().long(), minlength=2)
