"""Task: the loss, the distillation loss and the metrics that belong to one kind of target.

A task of one's own is a subclass with four things: the attributes ``kind`` and ``headline``, and the methods
:meth:`Task.loss`, :meth:`Task.default_metrics` and :meth:`Task.target_problem`. All other methods have defaults.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric

from hetfed_lightning.distillation import distillation_losses, soften
from hetfed_lightning.distillation.outputs import KINDS, at_least_float32, says_of_kinds


class Task(nn.Module, ABC):
    """Loss, distillation loss and metrics of one kind of target.

    In shapes B is the batch, C the width of the head's outputs, N the number of examples of a data set. Outputs come in
    the precision of the training, which may be 16 bits; losses and predictions are expected in float32 at least.
    Targets come after the participant's ``target_transform`` in the losses, and before it in :meth:`fit`,
    :meth:`target_problem` and :meth:`class_counts`.

    Args:
        metrics: Metrics by logged name, in place of the task's own; the first is the headline unless one bears the
            task's headline name. They are updated with :meth:`predictions` and :meth:`metric_target`, and cloned for
            each participant and data set. Set ``sync_on_compute=False`` where several processes train, since a
            participant is hosted by some of them only.
    """

    kind: str
    """Meaning of the outputs: ``"multiclass"``, ``"binary"``, ``"multilabel"`` or ``"regression"``.

    It decides how outputs are softened in distillation. A task may name a kind of its own. It then overrides
    :meth:`predictions`. To distil, it also overrides :meth:`distillation_loss` and takes an ``Ensemble`` with that kind
    in its ``kinds``.
    """

    headline: str
    """Logged name of the metric that summaries, tables and progress bars show, one of :meth:`default_metrics`."""

    higher_is_better: bool = True
    """True if a larger value of the headline metric is better."""

    def __init__(self, metrics: Mapping[str, Metric] | None = None) -> None:
        super().__init__()
        # A plain dictionary, not a `ModuleDict`, so that no tensor of a metric appears in a state.
        self._custom_metrics = dict(metrics) if metrics else None
        if self._custom_metrics and self.headline not in self._custom_metrics:
            self.headline = next(iter(self._custom_metrics))
            self.higher_is_better = self._custom_metrics[self.headline].higher_is_better is not False

    wants_fit: bool = False
    """True if :meth:`fit` is to be called as each training begins."""

    def fit(self, targets: Tensor) -> None:
        """Learn from the participant's own training targets; called once as each training begins, if ``wants_fit``.

        The default does nothing. An override keeps the results in buffers with ``persistent=False``, so that they are
        neither shared nor averaged, and returns them from :meth:`learned`. Participants with DP-SGD refuse tasks that
        want it, since what it learns has no noise.

        Args:
            targets: All training targets, raw, shape ``(N, ...)``.

        Raises:
            ValueError: If nothing can be learned from them; the caller adds the participant's name.
        """

    def learned(self) -> dict[str, Any] | None:
        """Plain numbers found by :meth:`fit`, for the participant's checkpoints and exports; empty by default.

        Called whenever a checkpoint is saved. :meth:`take_up` of the result must restore the same loss.

        Returns:
            Lists of numbers by name, empty if there is nothing to keep; None if :meth:`fit` has still to be called
            before the loss is meaningful.
        """
        return {}

    def take_up(self, learned: Mapping[str, Any]) -> None:
        """Restore the results of an earlier :meth:`fit`; called as a checkpoint is read. The default does nothing.

        Args:
            learned: Entries that :meth:`learned` returned, after a round trip through a file.

        Raises:
            ValueError: If an entry is missing or malformed; the message names the entry.
        """

    def weighed(self, target: Tensor) -> int:
        """Number of examples that a batch counts as in the mean loss of a data set; called for every evaluated batch.

        The default is all of them. A task that gives examples weight 0 leaves these out; a batch of 0 does not enter
        the mean.

        Args:
            target: Targets of the batch, shape ``(B, ...)``.
        """
        return len(target)

    @abstractmethod
    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Supervised loss, a scalar, float32 at least: the mean over the batch, differentiable by the outputs.

        Called in every training step and for every evaluated batch. An override leaves both tensors as they are.

        Args:
            outputs: Of the head, shape ``(B, C)``, in the precision of the training.
            target: Shape ``(B, ...)``.
        """

    def example_losses(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each example and its weight: :meth:`loss` is the sum of the losses over the sum of the weights.

        Optional: without it participants of this task train one after another instead of as a fleet, and DP-SGD refuses
        them. An override must keep the examples independent: row i depends on row i of the arguments alone. It runs
        under ``torch.func.vmap``, so it may not branch on values.

        Args:
            outputs: Of the head, shape ``(B, C)``.
            target: Shape ``(B, ...)``.

        Returns:
            Losses times weights, shape ``(B,)``, and the weights, shape ``(B,)``, both float32 at least.

        Raises:
            NotImplementedError: If the task does not override it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss by example.")

    @abstractmethod
    def default_metrics(self, width: int) -> dict[str, Metric]:
        """New metrics by logged name, the headline among them; called once per participant and data set.

        Args:
            width: Width C of the outputs.
        """

    @abstractmethod
    def target_problem(self, target: Tensor, width: int) -> str | None:
        """Description of the first fault of targets; None if they fit. Called before training begins.

        It gets the first training example as a batch of one, and then all targets of every data set that has them in
        memory. The caller raises a ``ValueError`` of the participant's name and this text, so it reads as "expected X,
        got Y".

        Args:
            target: Raw targets, shape ``(N, ...)``; N may be 1.
            width: Width C of the outputs.
        """

    def metrics(self, width: int) -> dict[str, Metric]:
        """New metrics of one participant and one data set by logged name: copies of the given ones, or the defaults.

        Args:
            width: Width C of the outputs.
        """
        if self._custom_metrics is not None:
            return {name: metric.clone() for name, metric in self._custom_metrics.items()}
        return self.default_metrics(width)

    @property
    def has_packaged_metrics(self) -> bool:
        """True if the metrics are the defaults of a task of this package."""
        kind = type(self)
        is_ours = kind.default_metrics.__module__.startswith(f"{__name__.partition('.')[0]}.")
        return is_ours and self._custom_metrics is None and kind.metrics is Task.metrics

    def prefers_higher(self, metric: str) -> bool:
        """True if a larger value of a metric is better, by torchmetrics' ``higher_is_better``.

        Args:
            metric: Its logged name, of a method's further model too (``accuracy.common``). Metrics unknown to the
                task, such as those of a participant's own ``validation_step``, count as better the larger they are.
        """
        known = self.metrics(2)  # The width makes no difference to what a metric is.
        name = metric if metric in known else metric.rpartition(".")[0] or metric
        if name == self.headline:
            return self.higher_is_better
        made = known.get(name)
        return made is None or made.higher_is_better is not False

    def predictions(self, outputs: Tensor) -> Tensor:
        """Predictions for metrics and users, shape ``(B, C)``, float32 at least: probabilities, or values.

        Called for every evaluated batch and in ``predict``. A task of a kind of its own overrides it.

        Args:
            outputs: Of the head, shape ``(B, C)``.

        Raises:
            ValueError: If the task is of a kind of its own and does not override this.
        """
        if self.kind not in KINDS:
            raise ValueError(
                f"{type(self).__name__} is of kind {self.kind!r} and has no predictions(outputs) of its own. Write it, "
                f"or set kind to what the outputs are: {says_of_kinds()}."
            )
        return soften(outputs, 1.0, self.kind)

    def metric_target(self, target: Tensor) -> Tensor:
        """Targets for metrics, of a shape that fits :meth:`predictions`; floating ones in float32 at least.

        Args:
            target: Shape ``(B, ...)``.
        """
        return at_least_float32(target) if target.is_floating_point() else target

    def distillation_loss(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Loss against the softened targets of an ensemble, a scalar, float32 at least: the mean over the batch.

        Called in every step on public batches. The losses of logits are multiplied by the squared temperature, so that
        the temperature does not change their weight; an override should keep that.

        Args:
            outputs: Of the student's head, shape ``(B, C)``.
            targets: Of the ensemble, shape ``(B, C)``, softened at the temperature; constants.
            temperature: Finite and above 0.
        """
        return self.example_distillation_losses(outputs, targets, temperature).mean()

    def example_distillation_losses(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Distillation loss of each example, shape ``(B,)``; :meth:`distillation_loss` is their mean.

        A task that overrides :meth:`distillation_loss` alone keeps working: each example then has the loss of its
        batch.

        Args:
            outputs: Of the student's head, shape ``(B, C)``.
            targets: Of the ensemble, shape ``(B, C)``, softened at the temperature; constants.
            temperature: Finite and above 0.
        """
        return distillation_losses(outputs, targets, temperature, self.kind)

    @property
    def distils(self) -> bool:
        """True if there is a distillation loss.

        Tasks of the four kinds always have one. A task of a kind of its own has it if it overrides one of the two
        methods.
        """
        own = type(self)
        brings = (
            own.distillation_loss is not Task.distillation_loss
            or own.example_distillation_losses is not Task.example_distillation_losses
        )
        return self.kind in KINDS or brings

    def class_counts(self, target: Tensor, width: int) -> Tensor | None:
        """Examples per class, shape ``(C,)``, of multilabel positive examples per label; None if there are no classes.

        Called before training begins, and where an ensemble needs class counts. Counts are int64 on the CPU.

        Args:
            target: Raw targets, shape ``(N, ...)``.
            width: Width C of the outputs.
        """
        del target, width
        return None
