"""Yes or no."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryAccuracy

from hetfed_lightning.distillation import OutputKind
from hetfed_lightning.distillation.outputs import at_least_float32
from hetfed_lightning.metrics import DefinedAUROC
from hetfed_lightning.tasks.targets import balanced_weights, flat, saved_weights, zero_one_problem
from hetfed_lightning.tasks.task import Task


class BinaryTask(Task):
    """Yes or no: one logit ``(B, 1)`` or ``(B,)``, targets 0 or 1, binary cross-entropy.

    Args:
        positive_weight: Weight of the positive examples in the loss.
        metrics: See :class:`Task`.
        class_weights: ``"balanced"`` weighs negative and positive examples by the participant's own training targets,
            so that both classes have one say (:func:`~hetfed_lightning.tasks.targets.balanced_weights`).
    """

    kind: OutputKind = "binary"
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
        """Weigh the classes by how often they occur in targets ``(N,)`` or ``(N, 1)``."""
        if self.wants_fit:
            self._balance_by(balanced_weights(torch.bincount(flat(targets).cpu().long(), minlength=2)))

    def _balance_by(self, weights: Tensor) -> None:
        self.balance.copy_(weights)
        self._is_fitted, self._some_weigh_nothing = True, bool((weights == 0).any())

    def learned(self) -> dict[str, Any] | None:
        """The weights of negative and positive examples, if balancing them was asked for."""
        if not self.wants_fit:
            return {}
        return {"class_weights": self.balance.tolist()} if self._is_fitted else None

    def take_up(self, learned: Mapping[str, Any]) -> None:
        """Weigh negative and positive examples as :meth:`fit` did, if that is asked for."""
        if self.wants_fit:
            weights = saved_weights(learned, "class_weights")
            if len(weights) != 2:
                raise ValueError(f"expected 2 weights under 'class_weights', got {len(weights)}")
            self._balance_by(weights)

    def weighed(self, target: Tensor) -> int:
        """All examples, or none where none of them has a weight: the loss divides by all."""
        if self._some_weigh_nothing and not bool(self.balance.cpu()[flat(target).cpu().long()].any()):
            return 0
        return len(target)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy of logits ``(B, 1)`` or ``(B,)``."""
        logits = flat(at_least_float32(outputs))
        wanted = flat(target).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(
            logits, wanted, self._balance(wanted), pos_weight=self._weight(logits)
        )

    def example_losses(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Binary cross-entropies of logits ``(B, 1)`` or ``(B,)``."""
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
        """Probability of the positive class, shape ``(B,)``."""
        return flat(super().predictions(flat(outputs).unsqueeze(1)))

    def metric_target(self, target: Tensor) -> Tensor:
        """Targets of shape ``(B,)``."""
        return flat(target)

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
        if flat(target).ndim != 1:
            return f"expected one target per example, got targets of shape {tuple(target.shape)}"
        return zero_one_problem(target)

    def class_counts(self, target: Tensor, width: int) -> Tensor | None:
        """Negative and positive examples, shape ``(2,)``."""
        del width
        return torch.bincount(flat(target).cpu().long(), minlength=2)
