"""Member of a federation: an ordinary LightningModule with a shared backbone and a personal head."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from hetfed_lightning.batches import split_batch
from hetfed_lightning.checkpointing.reading import check_form, read_checkpoint
from hetfed_lightning.data.schema import DataSchema
from hetfed_lightning.layers.transforms import InvertibleTransform, TransformByName
from hetfed_lightning.logs.batched_accuracy import enter
from hetfed_lightning.modes import evaluating
from hetfed_lightning.participants import student_name
from hetfed_lightning.participants.batch_result import Evaluated
from hetfed_lightning.participants.compilation import (
    compile_backbone,
    is_wrapped,
    keep_plain_names,
    plain_name,
    settings_of,
)
from hetfed_lightning.participants.inseparable import bound_buffers, first_keys
from hetfed_lightning.participants.key_patterns import matches
from hetfed_lightning.participants.own_prior import CLASS_SHARES, check_own_prior, saved_shares, under_own_prior
from hetfed_lightning.participants.precision import converted, default_optimizer
from hetfed_lightning.participants.predict_frame import predictions_of_frame
from hetfed_lightning.participants.transfer import Transfer, slow_down
from hetfed_lightning.privacy import DPSGD, PrivacyAccount
from hetfed_lightning.shared_storage.copy_on_write import Borrower
from hetfed_lightning.supervised import Supervised
from hetfed_lightning.tasks import Task, TaskName, as_task

if TYPE_CHECKING:
    from pandas import DataFrame

STUDENT = student_name.STUDENT
"""Name of the unified model in logs and checkpoints."""

Stage = Literal["train", "val", "test"]

Scope = Literal["own", "global"]
"""Owner of the data that a participant answers for: itself, or all participants."""

SCHEMA = "schema"
"""Key of a participant's data schema in its part of a checkpoint."""
LEARNED = "task"
"""Key of the fitted statistics of a participant's task, in its part of a checkpoint."""

FITTED = ("transform", "target_transform", "task")
"""Attributes whose buffers are fitted to the participant's own data."""

METHOD_MODULES = "method_modules"
"""Attribute with the methods' modules: trained and saved with the participant, never matched by ``shared``."""


OWN = ""
"""Name of the model that a participant predicts with, among those of its methods."""


class Host(Protocol):
    """Interface of the federation that trains a participant: a place for its logs, and its optimizers."""

    @property
    def scope(self) -> Scope:
        """``"own"`` while the participant is evaluated on its own data, ``"global"`` on that of all participants."""

    def log_for(self, participant: Participant, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Record a value under the participant's name.

        Args:
            participant: Participant that logs.
            name: Name of the metric.
            value: Number, scalar tensor or metric.
            args: Further arguments of ``LightningModule.log``.
            kwargs: Further arguments of ``LightningModule.log``.
        """

    def outputs_of(self, participant: Participant, inputs: Any) -> dict[str, Tensor]:
        """Outputs of a participant by model, shape ``(B, C)`` each: the one it predicts with under ``""`` first.

        Args:
            participant: Participant that is evaluated.
            inputs: Inputs of its backbone, of B examples.
        """

    def optimizers_of(self, participant: Participant, *, scaled: bool = False) -> list[Optimizer]:
        """Optimizers of a participant, in the order of its ``configure_optimizers``.

        Args:
            participant: Participant that owns them.
            scaled: Returns optimizers whose steps heed the participant's loss scale.
        """

    def schedulers_of(self, participant: Participant) -> list[Any]:
        """Learning-rate schedulers of a participant."""

    def backward_of(self, participant: Participant, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients of a participant's loss, with the hooks around it.

        Args:
            participant: Participant that owns the loss.
            loss: Loss, a scalar.
            args: Further arguments of ``Tensor.backward``.
            kwargs: Further arguments of ``Tensor.backward``.
        """


class Participant(Borrower, L.LightningModule):
    """Backbone that may be shared, personal head, and the settings with which one participant trains them.

    Also trains alone in a :class:`lightning.Trainer`. Subclass it like any LightningModule: ``forward``,
    ``training_step``, ``validation_step``, ``configure_optimizers`` and ``self.log`` keep their meaning. Logged values
    bear the participant's name (``train_loss`` becomes ``train_loss/hospital_a``).

    Args:
        backbone: Maps inputs to features ``(B, D)``.
        head: Maps features ``(B, D)`` to outputs ``(B, C)``; None if the backbone gives the outputs.
        shared: Keys of ``state_dict`` that may be averaged: names, prefixes up to a dot, fnmatch patterns, or
            exclusions that begin with ``!``. ``("backbone",)`` is FedPer, ``("head",)`` LG-FedAvg, ``("*",)`` FedAvg,
            ``()`` shares nothing.
        optimizer: Called with the trainable parameters; None for Adam with learning rate 1e-3 (and, for parameters in
            float16, ``eps`` 1e-3).
        lr_scheduler: Called with the optimizer. For a scheduler that follows a metric, set ``monitor`` in
            ``configure_optimizers`` or take Lightning's ``ReduceLROnPlateau``.
        lr_scheduler_interval: ``"epoch"`` steps it once a round, ``"step"`` after each optimizer step.
        task: ``"multiclass"``, ``"binary"``, ``"multilabel"``, ``"regression"``, or a :class:`Task`.
        transform: Maps a batch of raw inputs to inputs of the backbone, on the device; applied to the public set as
            well. A module follows train and eval mode. For inputs by name, a mapping of transforms by input name. A
            transform with a ``fit`` method is fitted to the participant's own training inputs, once, before training
            (:mod:`hetfed_lightning.participants.fit_to_data`).
        target_transform: Maps targets to the unit of the network's outputs, as :class:`Standardise
            <hetfed_lightning.layers.Standardise>` does; its ``inverse`` maps predictions and metrics back.
        joins_at: First round of its membership, from 0.
        leaves_at: First round after its membership; None for never. The others keep what was learned from it.
        transfer: Handling of received weights on joining; None to train all of them at once.
        local_epochs: Passes over its own training set in a round, at least 1; fixed while a fit runs, since the batches
            of a round are planned before it begins.
        step_budget: Most batches in a round; None for no limit. Fixed while a fit runs.
        min_steps: Fewest batches in a round: passes are repeated until they have as many, so that a participant with
            few examples steps as often as others. None for ``local_epochs`` alone. Fixed while a fit runs.
        own_prior: Weight of the participant's own class shares in answers for its own data, at least 0: their log times
            it is added to the logits (:mod:`hetfed_lightning.participants.own_prior`). 1 is Bayes' rule where targets
            have a uniform class prior, as those of ``DensityRatioPosterior`` by default; 0 changes nothing. Answers for
            everyone's data, what is sent, and training are as without.
        gradient_clip_val: Largest norm of its gradients, above 0; None for no clipping.
        accumulate_grad_batches: Batches per optimizer step, at least 1. Accumulation ends with the round: a last step
            with fewer batches is their mean, and a round with fewer batches in all has one step and a warning by name.
            (A plain Trainer divides the leftover batches by ``accumulate_grad_batches`` and so shrinks that step, most
            of all at small sites.)
        privacy: DP-SGD settings, which bound what can be inferred about any one example (`docs/privacy.md`); None to
            train without. Inside a federation alone.
        compile: True to run the backbone through ``torch.compile`` in a fit, or its arguments such as ``{"mode":
            "max-autotune"}``. A subclass with an ``on_fit_start`` calls that of its base.

    Attributes:
        schema: Meaning of the data's columns and classes, and fill values of its gaps, once it has been trained on data
            with a schema; saved in checkpoints and exports.
        trained_as: Name in the federation that it was exported from; None for others.
        class_shares: Shares of the classes in its training data, smoothed, once a federation has trained it with
            ``own_prior``; saved in checkpoints and exports, and sent to nobody.

    Raises:
        ValueError: If a setting is out of its range.
        TypeError: If ``optimizer`` or ``lr_scheduler`` is no function.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module | None = None,
        *,
        shared: Sequence[str] = ("backbone",),
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Literal["epoch", "step"] = "epoch",
        task: Task | TaskName = "multiclass",
        transform: nn.Module | Mapping[str, nn.Module] | Callable[[Any], Any] | None = None,
        target_transform: InvertibleTransform | None = None,
        joins_at: int = 0,
        leaves_at: int | None = None,
        transfer: Transfer | None = None,
        local_epochs: int = 1,
        step_budget: int | None = None,
        min_steps: int | None = None,
        own_prior: float = 0.0,
        gradient_clip_val: float | None = None,
        accumulate_grad_batches: int = 1,
        privacy: DPSGD | None = None,
        compile: bool | dict[str, Any] = False,  # noqa: A002 - as torch calls it
    ) -> None:
        super().__init__()
        if isinstance(shared, str):
            shared = (shared,)
        _at_least("joins_at", joins_at, 0)
        _at_least("accumulate_grad_batches", accumulate_grad_batches, 1)
        if leaves_at is not None:
            _at_least("leaves_at", leaves_at, joins_at + 1)
        if gradient_clip_val is not None and not 0 < gradient_clip_val < float("inf"):
            raise ValueError(f"gradient_clip_val: expected a finite norm above 0, got {gradient_clip_val}.")
        if lr_scheduler_interval not in {"epoch", "step"}:
            raise ValueError(f"lr_scheduler_interval: expected 'epoch' or 'step', got {lr_scheduler_interval!r}.")
        for name, factory in (("optimizer", optimizer), ("lr_scheduler", lr_scheduler)):
            if factory is not None and not callable(factory):
                raise TypeError(
                    f"{name}: expected a function that makes one, such as lambda p: torch.optim.SGD(p, lr=0.1), got "
                    f"{type(factory).__name__}."
                )
        self.backbone = backbone
        self.head = nn.Identity() if head is None else head
        self.shared = tuple(shared)
        self.optimizer_factory = optimizer
        self.lr_scheduler_factory = lr_scheduler
        self.lr_scheduler_interval = lr_scheduler_interval
        self.task = as_task(task)
        check_own_prior(own_prior, self.task.kind)
        self.own_prior = own_prior
        self.transform = TransformByName(transform) if isinstance(transform, Mapping) else transform
        self.target_transform = target_transform
        self.joins_at = joins_at
        self.leaves_at = leaves_at
        self.transfer = transfer
        self.held: set[str] = set()
        self.gradient_clip_val = gradient_clip_val
        self.accumulate_grad_batches = accumulate_grad_batches
        self.privacy = privacy
        self.schema: DataSchema | None = None
        self.trained_as: str | None = None
        self.class_shares: tuple[float, ...] | None = None
        self.ledger = PrivacyAccount()
        self.compile_settings = settings_of(compile)
        if self.compile_settings is not None and is_wrapped(backbone):
            raise ValueError(
                "backbone: it went through torch.compile already. Give the network as it is, or leave out compile."
            )
        keep_plain_names(self)
        self._name: str | None = None
        self._host: weakref.ref[Host] | None = None
        self.local_epochs = local_epochs
        self.step_budget = step_budget
        self.min_steps = min_steps
        if step_budget is not None and min_steps is not None and step_budget < min_steps:
            raise ValueError(f"min_steps: expected at most step_budget={step_budget}, got {min_steps}.")
        # Metrics are made at their first use and kept out of the module tree: they belong to no state.
        self._metrics: dict[str, dict[str, Metric]] = {}

    # Amount of work in a round

    @property
    def local_epochs(self) -> int:
        """Passes over the participant's own training set in a round, at least 1."""
        return self._local_epochs

    @local_epochs.setter
    def local_epochs(self, epochs: int) -> None:
        _at_least("local_epochs", epochs, 1)
        self._refuse_in_run("local_epochs")
        self._local_epochs = epochs

    @property
    def step_budget(self) -> int | None:
        """Most batches in a round, at least 1; None for no limit."""
        return self._step_budget

    @step_budget.setter
    def step_budget(self, batches: int | None) -> None:
        if batches is not None:
            _at_least("step_budget", batches, 1)
        self._refuse_in_run("step_budget")
        self._step_budget = batches

    @property
    def min_steps(self) -> int | None:
        """Fewest batches in a round, at least 1; None for whole ``local_epochs`` alone."""
        return self._min_steps

    @min_steps.setter
    def min_steps(self, batches: int | None) -> None:
        if batches is not None:
            _at_least("min_steps", batches, 1)
        self._refuse_in_run("min_steps")
        self._min_steps = batches

    def _refuse_in_run(self, name: str) -> None:
        """Refuse what would act a round late, or be cut, since the batches of the round are planned before it."""
        trainer = self._trainer
        if self.host is None or trainer is None:
            return
        running = trainer.state.fn == TrainerFn.FITTING and trainer.state.status == TrainerStatus.RUNNING
        if running and trainer.train_dataloader is not None:
            raise RuntimeError(
                f"{self.label}: {name} cannot be changed inside a run (round {trainer.current_epoch}), since a round's "
                "batches are planned before it begins. Set it before Trainer.fit, or end the fit, set it, and go on by "
                "Trainer.fit(..., ckpt_path=...). A training_step that returns None leaves out a step."
            )

    # The network

    def forward(self, inputs: Any) -> Tensor:
        """Outputs, shape ``(B, C)``, for transformed inputs of B examples."""
        outputs: Tensor = self.head(self.features_of(inputs))
        return outputs

    def features_of(self, inputs: Any) -> Tensor:
        """Features, shape ``(B, D)``, for transformed inputs of B examples: what the head is given."""
        features: Tensor = self.backbone(inputs)
        return features

    def transformed(self, inputs: Any) -> Any:
        """Inputs of the backbone: raw inputs of B examples after ``transform``."""
        return inputs if self.transform is None else self.transform(inputs)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Batch with ``transform`` applied to its inputs and ``target_transform`` to its targets."""
        del dataloader_idx
        inputs, target = split_batch(batch)
        inputs = self.transformed(inputs)
        if target is None:
            return inputs
        return inputs, target if self.target_transform is None else self.target_transform(target)

    def in_own_unit(self, values: Tensor) -> Tensor:
        """Predictions or targets in the unit before ``target_transform``, in the shape given."""
        return values if self.target_transform is None else self.target_transform.inverse(values)

    def missing_inputs(self, inputs: Any) -> list[str]:
        """Names of inputs that the participant reads and the raw batch lacks; none for a participant with one input."""
        del inputs
        return []

    def reads_any_of(self, inputs: Any) -> bool:
        """True if the participant can predict from the raw inputs of the batch."""
        del inputs
        return True

    # Training and evaluation

    def on_fit_start(self) -> None:
        """Compile the backbone, if ``compile`` asks for it.

        Raises:
            RuntimeError: If it has privacy settings and no federation, where its steps would not be private.
        """
        if self.privacy is not None and self.host is None:
            raise RuntimeError(
                f"{self.label}: privacy is a federation's business; alone in a Trainer it would train without noise. "
                "Train Federation({'name': participant}), or set privacy to None."
            )
        if self.compile_settings is not None:
            compile_backbone(self.backbone, self.compile_settings, self.label, self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Supervised loss of one batch of the participant's own data, a scalar."""
        del batch_idx
        inputs, target = split_batch(batch)
        self.check_training_inputs(inputs)
        loss = self.task.loss(self(inputs), target)
        self.log("train_loss", loss, batch_size=len(target))
        return loss

    def supervised(self, batch: Any) -> Supervised:
        """Batch of its own examples with features ``(B, D)`` and outputs ``(B, C)``, for losses by example."""
        inputs, target = split_batch(batch)
        self.check_training_inputs(inputs)
        features = self.features_of(inputs)
        return Supervised(inputs, features, self.head(features), target)

    def check_training_inputs(self, inputs: Any) -> None:
        """Refuse inputs of own training examples that the network cannot learn from; by default none.

        Args:
            inputs: Transformed inputs of B examples.
        """

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Update and log the loss and the task's metrics."""
        del batch_idx
        self.evaluate_batch(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """Update and log the loss and the task's metrics."""
        del batch_idx
        self.evaluate_batch(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """Probabilities (values in a regression), shape ``(B, C)``, for a batch with or without targets."""
        del batch_idx
        outputs = self.outputs_for(self.scope, self.outputs_by_model(split_batch(batch)[0])[OWN])
        return self.in_own_unit(self.task.predictions(outputs))

    def outputs_by_model(self, inputs: Any) -> dict[str, Tensor]:
        """Outputs in evaluation by model, shape ``(B, C)`` each: the one it predicts with under ``""`` first.

        Further models, and another prediction than the network's, come from ``Method.answers`` in a federation.

        Args:
            inputs: Transformed inputs of B examples.
        """
        host = self.host
        return {OWN: self(inputs)} if host is None else host.outputs_of(self, inputs)

    def outputs_for(self, scope: Scope, outputs: Tensor) -> Tensor:
        """Outputs as answers for data of a scope: for its own data under its class prior, weighted by ``own_prior``.

        The same tensor for everyone's data, without ``own_prior``, and as long as no federation has trained it.

        Args:
            scope: ``"own"`` or ``"global"``.
            outputs: Outputs of its network, shape ``(B, C)`` or ``(B,)``.

        Raises:
            ValueError: If its class shares are of another number of classes.
        """
        if scope != "own" or not self.own_prior or self.class_shares is None:
            return outputs
        try:
            return under_own_prior(outputs, self.class_shares, self.own_prior, self.task.kind)
        except ValueError as error:
            raise ValueError(f"{self.label}: own_prior: {error}.") from error

    @torch.no_grad()
    def predict(self, inputs: Any, scope: Scope = "own") -> Tensor:
        """Probabilities (values in a regression), shape ``(B, C)``, for raw inputs, in evaluation mode.

        Args:
            inputs: Batch of raw inputs, before ``transform``, on any device and in any precision. If gaps were filled
                in training (:attr:`schema`), NaN is filled with the same values.
            scope: ``"own"`` for data with the classes of its own, ``"global"`` for everyone's: without ``own_prior``.
        """
        inputs = inputs if self.schema is None else self.schema.filled(inputs)
        with evaluating(self):
            dtype = next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)
            inputs = converted(self.transfer_batch_to_device(inputs, self.device, 0), dtype)
            outputs = self.outputs_for(scope, self(self.transformed(inputs)))
        return self.in_own_unit(self.task.predictions(outputs))

    def predict_table(self, frame: DataFrame, scope: Scope = "own") -> DataFrame:
        """Predictions for the rows of a pandas frame, a row each, with the frame's index.

        Columns of the frame are found by the names that the participant was trained on, whatever their order; gaps are
        filled as in training. Nothing but the participant is needed.

        Args:
            frame: New rows, at least one; the column that was the target in training is the truth, if it is there.
            scope: As for :meth:`predict`.

        Returns:
            Columns ``row`` (counted from 1), ``participant``, and those of
            :func:`~hetfed_lightning.participants.prediction_table.prediction_columns`.

        Raises:
            DataError: If it was not trained on named columns, or a column is missing or no number.
            ImportError: If pandas is not installed.
        """
        return predictions_of_frame(self, frame, scope)

    def evaluate_batch(self, batch: Any, stage: Stage, evaluated: Evaluated | None = None) -> None:
        """Update and log loss and metrics of a batch.

        Args:
            batch: Inputs and targets of B examples, transformed.
            stage: ``"train"``, ``"val"`` or ``"test"``.
            evaluated: Loss and predictions of the batch, if they have been computed already.
        """
        inputs, target = split_batch(batch)
        if evaluated is not None:
            self._note(stage, OWN, evaluated, target)
            return
        found = {OWN: self(inputs)} if stage == "train" else self.outputs_by_model(inputs)
        if stage != "train":
            found[OWN] = self.outputs_for(self.scope, found[OWN])
        for model, outputs in found.items():
            self._note(stage, model, Evaluated.of(self.task, outputs, target), target)

    def _note(self, stage: Stage, model: str, known: Evaluated, target: Any) -> None:
        """Update and log the loss and metrics of one model."""
        weighed, of_model = self.task.weighed(target), f".{model}" if model else ""
        # The loss of a batch without weight is 0 / 0: weight 0 keeps NaN out of the mean.
        loss = known.loss if weighed else torch.zeros_like(known.loss)
        self.log(f"{stage}_loss{of_model}", loss, batch_size=weighed)
        for name, metric in self.metrics_of(stage, known.width, model).items():
            if known.counts is None or not enter(metric, known.counts, self.task.kind, known.width):
                predictions = self.in_own_unit(known.predictions)
                wanted = self.in_own_unit(self.task.metric_target(target))
                try:
                    metric.update(predictions, wanted)
                except Exception as error:
                    raise ValueError(
                        f"{self.label}: its metric {name!r} ({type(metric).__name__}) cannot take predictions of shape "
                        f"{tuple(predictions.shape)} with targets of shape {tuple(wanted.shape)}: {error}. Give the "
                        "task a metric of its own kind."
                    ) from error
            # Alone in a Trainer Lightning asks which attribute a metric is; these are none.
            attribute = f"{stage}_{name}{of_model}"
            self.log(attribute, metric, batch_size=len(target), metric_attribute=attribute)

    def metrics_of(self, stage: Stage, width: int, model: str = OWN) -> dict[str, Metric]:
        """Metrics of the task, by name, for the data in evaluation (own or global).

        Args:
            stage: ``"train"``, ``"val"`` or ``"test"``.
            width: Outputs per example, C.
            model: Name of a method's further model; empty for the one that the participant predicts with.
        """
        key = f"{stage}/{self.scope}/{model}" if model else f"{stage}/{self.scope}"
        if key not in self._metrics:
            made = self.task.metrics(width)
            if torch.get_default_dtype().itemsize < 4:  # In "bf16-true" new tensors have 8 bits: 256 + 1 is 256.
                made = {name: metric.set_dtype(torch.float32) for name, metric in made.items()}
            self._metrics[key] = made
        metrics, device = self._metrics[key], self.device
        for metric in metrics.values():
            if metric.device != device:  # Where there is nothing to do, `Metric.to` takes half as long as an update.
                metric.to(device)
        return dict(metrics)

    # Optimizers

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters that require a gradient."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def optimizer_parameters(self) -> Any:
        """Argument of the optimizer: the trainable parameters, or parameter groups with settings of their own."""
        return self.trainable_parameters()

    def configure_optimizers(self) -> Any:
        """Optimizer, and scheduler if there is one, from the constructor's arguments."""
        parameters = self.trainable_parameters()
        if not parameters:
            raise ValueError(f"{self.label}: it has no parameter that requires a gradient, so nothing can be trained.")
        factory = self.optimizer_factory
        optimizer = default_optimizer(parameters) if factory is None else factory(self.optimizer_parameters())
        if self.transfer is not None and self.transfer.learning_rate_ratio != 1:
            state = self.state_dict(keep_vars=True)
            slow_down(optimizer, [state[key] for key in self.shared_keys()], self.transfer.learning_rate_ratio)
        if self.lr_scheduler_factory is None:
            return optimizer
        scheduler = self.lr_scheduler_factory(optimizer)
        config = {"scheduler": scheduler, "interval": self.lr_scheduler_interval}
        if (monitor := getattr(scheduler, "monitor", None)) is not None:
            config["monitor"] = monitor
        return {"optimizer": optimizer, "lr_scheduler": config}

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """Optimizer of this participant, or the list of them.

        Args:
            use_pl_optimizer: Wraps them in ``LightningOptimizer``; otherwise torch's own are returned.
        """
        host = self.host
        if host is None:
            return super().optimizers(use_pl_optimizer)
        own = host.optimizers_of(self, scaled=use_pl_optimizer)
        return own[0] if len(own) == 1 else own

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute gradients as ``LightningModule.manual_backward`` does, with this participant's own hooks.

        Args:
            loss: Loss, a scalar.
            args: Further arguments of ``Tensor.backward``.
            kwargs: Further arguments of ``Tensor.backward``.
        """
        host = self.host
        if host is None or self.automatic_optimization:  # The latter is refused there.
            super().manual_backward(loss, *args, **kwargs)
        else:
            host.backward_of(self, loss, *args, **kwargs)

    def lr_schedulers(self) -> Any:
        """Learning-rate scheduler of this participant, the list of them, or None."""
        host = self.host
        if host is None:
            return super().lr_schedulers()
        own = host.schedulers_of(self)
        return None if not own else own[0] if len(own) == 1 else own

    def is_member(self, round_index: int) -> bool:
        """True if the participant has joined by the round and has not left."""
        return self.joins_at <= round_index and (self.leaves_at is None or round_index < self.leaves_at)

    def attend(self, joins_at: int = 0, leaves_at: int | None = None) -> None:
        """Set the rounds in which it takes part, before a run.

        Args:
            joins_at: First round in which it takes part, from 0.
            leaves_at: First round in which it takes part no more; None for never.
        """
        self.joins_at, self.leaves_at = joins_at, leaves_at

    # Shared state

    def shared_keys(self) -> list[str]:
        """Keys of ``state_dict`` that ``shared`` matches, in the order of the state, each tensor once.

        Buffers fitted to the participant's own data are never shared. Of the keys of a tied weight the first matched
        one stands for all.

        Raises:
            ValueError: If a pattern matches nothing.
        """
        return self._shared_of(self.state_dict(keep_vars=True))

    def _shared_of(self, state: Mapping[str, Any]) -> list[str]:
        keys = [
            key
            for key in state
            if (root := key.split(".")[0]) != METHOD_MODULES
            and (root not in FITTED or isinstance(state[key], nn.Parameter))
        ]
        for pattern in self.shared:
            if pattern != "*" and not any(matches(key, pattern) for key in keys):
                found = ", ".join(sorted({key.split(".")[0] for key in keys})) or "no parameters"
                raise ValueError(
                    f"{self.label}: shared={pattern!r} matches no key of its state (which has {found}). "
                    "Name a module, a key, or an fnmatch pattern such as 'backbone.layer1.*'."
                )
        matched = [key for key in keys if any(matches(key, pattern) for pattern in self.shared)]
        first = first_keys({key: state[key] for key in matched})
        return [key for key in matched if first[key] == key]

    def averaged_keys(self, *, buffers: bool = False) -> list[str]:
        """Keys of ``state_dict`` that are averaged, in the order of the state.

        Buffers of which a shared weight is computed, such as the ``base`` of an orthogonal one, are always included:
        without them the averaged parameter has no meaning.

        Args:
            buffers: Includes other shared buffers, such as running statistics.
        """
        state = self.state_dict(keep_vars=True)
        shared = self._shared_of(state)
        taken = {key for key in shared if buffers or isinstance(state[key], nn.Parameter)}
        taken |= {key for key, parameters in bound_buffers(self).items() if not parameters.isdisjoint(shared)}
        return [key for key in state if key in taken]

    def trained_keys(self, *, shared: bool | None = None) -> list[str]:
        """Keys of the parameters that are trained, in the order of the state, without modules of methods.

        Args:
            shared: True for those that are averaged alone, False for all others, None for both.
        """
        averaged = set(self.averaged_keys())
        return [
            key
            for key, one in self.named_parameters()
            if one.requires_grad and key.split(".")[0] != METHOD_MODULES and shared in {None, key in averaged}
        ]

    def tied_keys(self) -> dict[str, str]:
        """Shared key by each key that ``shared`` does not match and whose tensor is tied to it."""
        state = self.state_dict(keep_vars=True)
        if len({id(tensor) for tensor in state.values()}) == len(state):
            return {}
        shared = {id(state[key]): key for key in self._shared_of(state)}
        return {
            key: shared[id(tensor)]
            for key, tensor in state.items()
            if id(tensor) in shared and not any(matches(key, pattern) for pattern in self.shared)
        }

    def buffer_keys(self) -> set[str]:
        """Keys of ``state_dict`` that are buffers (running statistics, counters), not parameters."""
        parameters = {name for name, _ in self.named_parameters(remove_duplicate=False)}
        return set(self.state_dict(keep_vars=True)) - parameters

    def state_dict(self, *args: Any, prefix: str = "", keep_vars: bool = False, **kwargs: Any) -> Any:
        """State of ``Module.state_dict``, each tensor with storage of its own: a saved view would bring all along."""
        state = super().state_dict(*args, prefix=prefix, keep_vars=keep_vars, **kwargs)
        if not keep_vars and not prefix:  # With a prefix it is the federation's state, which is everyone's.
            for key, value in state.items():
                if isinstance(value, Tensor) and _is_part(value):
                    state[key] = value.clone()
        return state

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters under the keys of ``state_dict``, as of ``Module.named_parameters``."""
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            yield plain_name(name), parameter

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Buffers under the keys of ``state_dict``, as of ``Module.named_buffers``."""
        for name, buffer in super().named_buffers(prefix, recurse, remove_duplicate):
            yield plain_name(name), buffer

    def view_of(self, keys: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Detached views by key of the tensors under ``keys`` (all if None), which change with the participant."""
        state = self.state_dict(keep_vars=True)
        return {key: state[key].detach() for key in (state if keys is None else keys)}

    def state_of(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Detached copies by key of the tensors under ``keys``."""
        return {key: tensor.clone() for key, tensor in self.view_of(keys).items()}

    @torch.no_grad()
    def load_state_of(self, state: Mapping[str, Tensor]) -> None:
        """Copy ``state`` into the tensors of the same keys, in place so that optimizers keep them.

        Raises:
            ValueError: If a key is unknown or a shape differs.
        """
        own = self.state_dict(keep_vars=True)
        for key, tensor in state.items():
            if key not in own or own[key].shape != tensor.shape:
                found = f"shape {tuple(own[key].shape)}" if key in own else "no such key"
                raise ValueError(f"{self.label}: expected {key} of shape {tuple(tensor.shape)}, found {found}.")
        self.materialise(state, copy=lambda _, tensor: torch.empty_like(tensor))
        for key, tensor in state.items():
            own[key].copy_(tensor)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the data schema, the task's fitted statistics and the class shares beside the weights."""
        if self.schema is not None:
            checkpoint[SCHEMA] = self.schema.to_dict()
        if learned := self.task.learned():
            checkpoint[LEARNED] = learned
        if self.class_shares is not None:
            checkpoint[CLASS_SHARES] = list(self.class_shares)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the data schema, the task's fitted statistics and the class shares of the checkpoint.

        Raises:
            ValueError: If they are damaged.
        """
        if SCHEMA in checkpoint:
            self.schema = DataSchema.from_dict(checkpoint[SCHEMA])
        if LEARNED in checkpoint:
            self.take_up_learned(checkpoint[LEARNED])
        if CLASS_SHARES in checkpoint:
            self.take_up_class_shares(checkpoint)

    def take_up_learned(self, learned: Any) -> None:
        """Load fitted statistics into the task, in the form of a checkpoint or an export.

        Raises:
            ValueError: If they are damaged.
        """
        try:
            if not isinstance(learned, Mapping):
                raise ValueError(f"expected entries by name, got {type(learned).__name__}")  # noqa: TRY004 - of a file
            self.task.take_up(learned)
        except ValueError as error:
            raise ValueError(f"{self.label}: what its task learned: {error}") from error

    def take_up_class_shares(self, found: Mapping[str, Any]) -> None:
        """Load class shares, in the form of a checkpoint or an export.

        Raises:
            ValueError: If they are damaged.
        """
        try:
            self.class_shares = saved_shares(found)
        except ValueError as error:
            raise ValueError(f"{self.label}: class shares of its training data: {error}") from error

    # Inside a federation

    @property
    def name(self) -> str | None:
        """Name of the participant in its federation; None outside of one."""
        return self._name

    @property
    def label(self) -> str:
        """Description of the participant in messages."""
        return f"participant {self._name!r}" if self._name else type(self).__name__

    @property
    def host(self) -> Host | None:
        """Federation that trains the participant; None outside of one, and while a Trainer trains it alone."""
        if self._host is None or getattr(self._trainer, "lightning_module", None) is self:
            return None
        return self._host()

    @property
    def scope(self) -> Scope:
        """``"own"`` while it is evaluated on its own data, ``"global"`` on that of all participants."""
        host = self.host
        return "own" if host is None else host.scope

    def attach(self, name: str, host: Host) -> None:
        """Join a federation under a name; the reference is weak and dropped when the participant is copied.

        A participant of another federation keeps its weights, and returns when that federation runs next.

        Args:
            name: Name of the participant.
            host: The federation.
        """
        if self.host is not None and self.host is not host:
            self.materialise()  # The other federation goes on writing to borrowed tensors.
        self._name = name
        self._host = weakref.ref(host)
        keep_plain_names(self)  # Modules that a subclass has added since.

    def detach(self) -> None:
        """Leave the federation and become a LightningModule of its own again."""
        self._name = None
        self._host = None
        self._trainer = None

    def modules_of(self, title: str) -> dict[str, nn.Module]:
        """Modules that a method has given to the participant, by name.

        Args:
            title: Title of the method.
        """
        given = self._modules.get(METHOD_MODULES)
        own = given._modules.get(title) if given is not None else None
        return {} if own is None else dict(own.named_children())

    def titles_of_modules(self) -> list[str]:
        """Titles of the methods that have given modules to the participant."""
        given = self._modules.get(METHOD_MODULES)
        return [] if given is None else list(given._modules)

    def attach_modules(self, modules: Mapping[str, Mapping[str, nn.Module]]) -> None:
        """Replace the participant's modules of methods.

        Args:
            modules: Modules by method's title and module's name.
        """
        if METHOD_MODULES in self._modules:
            del self._modules[METHOD_MODULES]
        if modules:
            own = {title: nn.ModuleDict(dict(given)) for title, given in modules.items()}
            self.add_module(METHOD_MODULES, nn.ModuleDict(own))
            keep_plain_names(self)

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log a value as ``LightningModule.log`` does; inside a federation under the participant's name.

        Args:
            name: Name of the metric.
            value: Number, scalar tensor or metric.
            args: Further arguments of ``LightningModule.log``.
            kwargs: Further arguments of ``LightningModule.log``.
        """
        host = self.host
        if host is None:
            super().log(name, value, *args, **kwargs)
        else:
            host.log_for(self, name, value, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state["_host"] = None
        state["_metrics"] = {}
        if any(_is_part(parameter) for parameter in self.parameters()):
            state["_modules"] = deepcopy(state["_modules"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, with plain keys for compiled modules, whose hooks are not copied."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's
        keep_plain_names(self)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        participant: str | None = None,
        *,
        map_location: Any = "cpu",
        **kwargs: Any,
    ) -> Self:
        """Participant outside of any federation, with the weights that it has in a checkpoint.

        Args:
            checkpoint_path: Checkpoint of a federation, or of a participant trained alone.
            participant: Name in the federation; ``"student"`` for the unified model.
            map_location: Device of the weights, as for ``torch.load``.
            kwargs: Arguments of the constructor, unchanged: ``backbone``, ``head``, ...

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, holds more than plain data, or has no such participant.
        """
        checkpoint = read_checkpoint(checkpoint_path, map_location=map_location)
        check_form(checkpoint, checkpoint_path)
        module = cls(**kwargs)
        module.load_state_dict(participant_state(checkpoint["state_dict"], participant, str(checkpoint_path)))
        alone = checkpoint if participant is None else checkpoint.get("federation", {}).get("own", {}).get(participant)
        if alone is not None:
            module.on_load_checkpoint(alone)
        return module


def participant_state(state: Mapping[str, Tensor], name: str | None, source: str) -> dict[str, Tensor]:
    """State of one participant out of a federation's, without modules of methods.

    Args:
        state: ``state_dict`` of a federation, or of a participant alone.
        name: Name of the participant, ``"student"`` for the unified model, None for a participant alone.
        source: Origin of the state in error messages.

    Raises:
        ValueError: If the state has no such participant.
    """
    names = sorted({key.split(".")[1] for key in state if key.startswith("participants.")})
    if any(key.startswith("student.") for key in state):
        names.append(STUDENT)
    if name is None:
        if names:
            raise ValueError(
                f"{source} is a federation's checkpoint: name one of its participants, {', '.join(names)}."
            )
        return {key: tensor for key, tensor in state.items() if not key.startswith(f"{METHOD_MODULES}.")}
    if name not in names:
        raise ValueError(f"{source} has no participant {name!r}; it has {', '.join(names) or 'none'}.")
    prefix = "student." if name == STUDENT else f"participants.{name}."
    return {
        key.removeprefix(prefix): tensor.clone()
        for key, tensor in state.items()
        if key.startswith(prefix) and not key.startswith(f"{prefix}{METHOD_MODULES}.")
    }


def _is_part(tensor: Tensor) -> bool:
    """True if a tensor lies in memory that holds more than itself, as that of a fleet's member does."""
    return tensor.untyped_storage().nbytes() > tensor.nbytes


def output_width(outputs: Tensor) -> int:
    """Number of outputs per example: C for shape ``(B, C)``, 1 for ``(B,)``."""
    return 1 if outputs.ndim == 1 else outputs.shape[-1]


def _at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}.")
