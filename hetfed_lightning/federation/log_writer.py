"""Reduction of participants' logged values, and their output to loggers, callbacks and progress bars."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from torchmetrics import Metric

from hetfed_lightning.federated_callback import raise_event
from hetfed_lightning.federation_view import FederationView
from hetfed_lightning.logs.loggers import give_loggers
from hetfed_lightning.logs.metric_store import Ledger, Reduced, batch_size_of, reduction_of, tag, undefined_figures
from hetfed_lightning.logs.undefined import UndefinedFigures

if TYPE_CHECKING:
    import lightning as L
    from torch import Tensor

    from hetfed_lightning.participants.participant import Participant, Scope, Stage


def is_fitting(trainer: L.Trainer) -> bool:
    """True if the trainer is in ``fit``, its validation included."""
    return trainer.state.fn is TrainerFn.FITTING


def stage_of(trainer: L.Trainer) -> Stage:
    """Stage of the metrics computed at present."""
    stage = trainer.state.stage  # By identity: comparing Lightning's enumerations costs as much as noting the figure.
    if stage is RunningStage.TESTING:
        return "test"
    return "val" if stage is RunningStage.VALIDATING or stage is RunningStage.SANITY_CHECKING else "train"


class Logs(FederationView, Protocol):
    """Federation that also logs by Lightning's own ``log``."""

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Log a value as ``LightningModule.log`` does."""


class LogBook:
    """Ledger of each stage, and rows not yet given to loggers.

    In a fit the rows do not go through ``self.log("step", ...)``: ModelCheckpoint would take that for the number of
    batches, and overwrite checkpoints of one round by equal names.

    Attributes:
        batch: Batch in progress, whose length is the weight of values logged without one.
        scope: ``"global"`` while global data is evaluated, else ``"own"``.
        undefined: Metrics that the participants' data do not define.
    """

    def __init__(self) -> None:
        self.batch: Any = None
        self.scope: Scope = "own"
        self.undefined = UndefinedFigures()
        self.ledgers: dict[Stage, Ledger] = {"train": Ledger(), "val": Ledger(), "test": Ledger()}
        self.rows: dict[Stage, dict[str, float]] = {"train": {}, "val": {}, "test": {}}
        self._steps: dict[str, Tensor] = {}
        self._bar: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """State of a copy, without any data."""
        return vars(self) | {"batch": None}

    def begin(self) -> None:
        """Begin a run, without unwritten values of an earlier one."""
        self.rows = {"train": {}, "val": {}, "test": {}}
        self.undefined.begin()

    def see(self, batch: Any) -> None:
        """Take what a participant sees now for the batch of the values that it logs."""
        self.batch = batch

    @contextmanager
    def on_data_of(self, scope: Scope) -> Iterator[None]:
        """Take what is noted in the body of a ``with`` statement for figures on own data, or on everyone's."""
        self.scope = scope
        try:
            yield
        finally:
            self.scope = "own"

    def put_before(self, stage: Stage, row: Mapping[str, float]) -> None:
        """Write a row of a checkpoint with a stage's own, whose values replace it."""
        self.rows[stage] = dict(row) | self.rows[stage]

    def note(
        self,
        federation: Logs,
        participant: Participant,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: str | Callable[..., Any] = "mean",
        *_: Any,
        batch_size: int | None = None,
        **__: Any,
    ) -> None:
        """Record a participant's value for the stage in progress; arguments as those of ``LightningModule.log``."""
        stage = stage_of(federation.trainer)
        if on_step and stage == "train":
            self.note_step(f"{name}_step/{participant.name}", value, prog_bar=prog_bar, logger=logger)
        if on_epoch is False:
            if isinstance(value, Metric):
                self.ledgers[stage].reset_later(value)
            return
        self.ledgers[stage].record(
            tag(name, cast("str", participant.name), everyone=self.scope == "global"),
            value,
            weight=float(batch_size_of(self.batch) if batch_size is None else batch_size),
            prog_bar=prog_bar,
            logger=logger is not False,
            reduction="mean" if reduce_fx == "mean" else reduction_of(reduce_fx, name),
        )

    def log(self, federation: Logs, figures: Mapping[str, Reduced]) -> None:
        """Publish metrics of the round, to callbacks and progress bars now and to loggers with their row.

        In a fit they are stored directly, since Lightning's own ``log`` takes a third of a millisecond for each: with
        twenty participants a fiftieth of a round.

        Args:
            federation: The federation, in a run.
            figures: Reduced metrics by tag.
        """
        trainer = federation.trainer
        if is_fitting(trainer):
            written = {key: figure.value for key, figure in figures.items() if figure.logger}
            self.rows[stage_of(trainer)].update(written)
            tensors = {key: torch.tensor(figure.value) for key, figure in figures.items()}
            trainer.callback_metrics.update(tensors)
            trainer.logged_metrics.update({key: tensors[key] for key in written})
            trainer.progress_bar_metrics.update({key: one.value for key, one in figures.items() if one.prog_bar})
            return
        with warnings.catch_warnings():
            # Without a logger Lightning warns of every tag, yet only what is logged for one is returned by test().
            warnings.filterwarnings("ignore", message=".*logger=True.*have no logger configured")
            # Every process logs the same figures, made of what all have measured.
            warnings.filterwarnings("ignore", message=".*sync_dist=True")
            for key, one in figures.items():
                if not one.logger:
                    # A later test of the same trainer, in which the figure is known, would log it otherwise than this
                    # one, which Lightning refuses.
                    trainer.callback_metrics[key] = torch.tensor(one.value)
                    continue
                federation.log(
                    key, one.value, one.prog_bar, one.logger,
                    on_step=False, on_epoch=True, batch_size=1, add_dataloader_idx=False,
                )  # fmt: skip

    def withdraw(self, trainer: L.Trainer, keys: Iterable[str]) -> None:
        """Remove metrics of an earlier round, which would be taken for this one's.

        Args:
            trainer: Trainer with the metrics.
            keys: Tags to remove.
        """
        for key in keys:
            for shown in (trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics):
                shown.pop(key, None)

    def note_step(self, key: str, value: Any, *, prog_bar: bool, logger: bool | None) -> None:
        """Record a value of this batch for loggers and progress bars; of a metric, the value of its last call.

        Args:
            key: Tag of the value.
            value: Number, scalar tensor or metric.
            prog_bar: True to show it in progress bars.
            logger: True to give it to loggers; None for the default.
        """
        if isinstance(value, Metric):
            value = value._forward_cache  # As Lightning does; `update` alone gives nothing.
        if value is None:
            return
        if prog_bar:
            self._bar.add(key)
        if logger is not False or prog_bar:
            noted = torch.as_tensor(value).detach()
            if noted.numel() != 1:
                raise ValueError(f"{key}: expected a number to log, got a tensor of shape {tuple(noted.shape)}.")
            self._steps[key] = noted

    def write_steps(self, trainer: L.Trainer) -> None:
        """Log the values of this batch, every ``log_every_n_steps`` batches.

        Lightning's own log is not used: it would repeat the last values of participants without further batches.
        """
        if not self._steps:
            return
        steps, self._steps = self._steps, {}
        trainer.progress_bar_metrics.update({key: float(steps[key]) for key in steps if key in self._bar})
        done = trainer.fit_loop.epoch_loop._batches_that_stepped
        if (done + 1) % trainer.log_every_n_steps == 0 or trainer.fast_dev_run:  # type: ignore[attr-defined]
            give_loggers(trainer, {key: float(value) for key, value in steps.items()}, done, trainer.current_epoch)

    def publish(self, federation: Logs, stage: Stage, trained_rounds: int) -> None:
        """Reduce a stage's ledger and publish the metrics.

        Args:
            federation: The federation, in a run.
            stage: Stage of the metrics.
            trained_rounds: Number of rounds that the measured models have trained, the horizontal axis of every chart.
        """
        trainer = federation.trainer
        reduced = federation.ranks.reduced(self.ledgers[stage], stage)
        if not reduced:
            return
        undefined = undefined_figures(reduced)
        self.undefined.note(stage, undefined, tell=not trainer.sanity_checking)
        if is_fitting(trainer):
            self.log(federation, reduced | {key: replace(reduced[key], logger=False) for key in undefined})
        else:
            self.log(federation, reduced | {"step": Reduced(float(trained_rounds))})
        values = {key: entry.value for key, entry in reduced.items() if key not in undefined}
        raise_event(federation, "on_metrics", federation.current_round, stage, values, part=stage)
        if stage == "val" and is_fitting(trainer):
            self.write(trainer, stage, trained_rounds)
            if not trainer.sanity_checking:
                self.undefined.check_monitors(trainer)

    def write(self, trainer: L.Trainer, stage: Stage, step: int) -> None:
        """Log a stage's row.

        Args:
            trainer: Trainer with the loggers.
            stage: Stage of the row.
            step: Step on the horizontal axis.
        """
        values, self.rows[stage] = self.rows[stage], {}
        if values and not trainer.sanity_checking:
            give_loggers(trainer, values, step, step - 1)
            for logger in trainer.loggers:
                logger.save()
