"""What a participant predicts: the loss, the distillation loss and the metrics that belong together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric

from hetfed_lightning.distillation import OutputKind, distillation_losses, soften
from hetfed_lightning.distillation.outputs import KINDS, at_least_float32, says_of_kinds


class Task(nn.Module, ABC):
    """Loss, distillation loss and metrics of one kind of target.

    Args:
        metrics: Metrics by the name they are logged under, instead of the task's own. They receive what
            :meth:`predictions` returns and the targets. Give ``sync_on_compute=False`` metrics when several
            processes train: participants are not hosted everywhere.
    """

    kind: OutputKind
    """How outputs are softened when they teach: ``"multiclass"``, ``"binary"``, ``"multilabel"`` or ``"regression"``.

    A task whose outputs are none of these may name a kind of its own. It then has :meth:`predictions` of its own; and
    where it distils, :meth:`distillation_loss`, and an ``Ensemble`` whose ``kinds`` has that kind.
    """

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

    wants_fit: bool = False
    """Whether :meth:`fit` is to be called with the participant's own training targets as a training begins."""

    def fit(self, targets: Tensor) -> None:
        """Learn from the targets of a training set, shape ``(N, ...)``; nothing unless a task says otherwise."""

    def learned(self) -> dict[str, Any] | None:
        """Plain numbers that :meth:`fit` found, for the participant's part of checkpoints and for its export.

        They are no part of ``state_dict``, so nothing of them is shared or averaged.

        Returns:
            Lists of numbers by name, empty where there is nothing to keep; None if :meth:`fit` is yet to be called and
            the loss is not what it will be.
        """
        return {}

    def take_up(self, learned: Mapping[str, Any]) -> None:
        """Go on with what :meth:`learned` gave; nothing unless a task says otherwise.

        Raises:
            ValueError: If something is missing or of another kind, by name.
        """

    def weighed(self, target: Tensor) -> int:
        """Examples that count in the mean of a batch's loss with those of other batches.

        All of them, unless a task gives some no weight: a batch that has none is left out of the mean.
        """
        return len(target)

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
        """What metrics and users see: probabilities, or values in a regression.

        Raises:
            ValueError: If the task is of a kind of its own and does not say what it predicts.
        """
        if self.kind not in KINDS:
            raise ValueError(
                f"{type(self).__name__} is of kind {self.kind!r} and has no predictions(outputs) of its own. Write it, "
                f"or set kind to what the outputs are: {says_of_kinds()}."
            )
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

    @property
    def distils(self) -> bool:
        """Whether there is a distillation loss: every kind but one's own has one, which has to bring it."""
        own = type(self)
        brings = (
            own.distillation_loss is not Task.distillation_loss
            or own.example_distillation_losses is not Task.example_distillation_losses
        )
        return self.kind in KINDS or brings

    def class_counts(self, target: Tensor, width: int) -> Tensor | None:
        """Examples per class (per label for multilabel), or None where there are no classes."""
        del target, width
        return None
