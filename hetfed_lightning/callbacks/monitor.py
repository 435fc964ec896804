"""Metrics of the federation as a whole, logged once a round, and its pages in TensorBoard.

Numbers and hyper-parameters go to every logger. Text, pictures and the page "Custom Scalars" go to a
``TensorBoardLogger`` alone, at the beginning and at the end of a fit: a log then grows by numbers only, however many
rounds there are. That page has one chart per metric with a line per participant; TensorBoard's own pages draw one chart
per tag.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING

import lightning as L
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger

from hetfed_lightning import plots
from hetfed_lightning.callbacks.confusions import Examined, examine
from hetfed_lightning.callbacks.headline_metrics import federation_figures, headlines
from hetfed_lightning.callbacks.hyperparameters import log_hyperparameters
from hetfed_lightning.callbacks.participant_summary import label_counts, of_type, roles
from hetfed_lightning.callbacks.run_pages import (
    Charts,
    SummaryBoard,
    agreement_of,
    has_pictures,
    introduce,
    show_agreement,
)
from hetfed_lightning.callbacks.tensorboard_pages import MAX_PARTICIPANTS, results_table
from hetfed_lightning.federated_callback import FederatedCallback, Phase, federated_callbacks
from hetfed_lightning.logs.loggers import give_loggers
from hetfed_lightning.logs.metric_store import tag

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.participants.participant import Stage

log = logging.getLogger(__name__)

SECONDS = "federation/seconds_per_round"


class FederationMonitor(FederatedCallback):
    """Logs mean, worst, standard deviation and Jain's index of the participants' headline metric.

    It also logs the mean loss (``federation/val_loss_mean``) if all losses are of one kind, and every participant's
    learning rate (``lr/hospital_a``). A ``LearningRateMonitor`` takes its place for the latter, but names participants
    only for optimizers with a scheduler. A participant whose data do not define a metric, such as the area under the
    ROC curve of one class, is left out and named once.

    NaN goes to no logger. A ``TensorBoardLogger`` also gets, except in ``fast_dev_run``: a table of the participants,
    the run's configuration, the sharing report, charts with a line per participant, and the label distributions; at the
    end confusion matrices or predicted against true values, the teachers' agreement, and a table of test results.
    Pictures need matplotlib, the extra ``plots``.

    Args:
        config: Configuration of the run as YAML, shown as text; None for none. The command line sets it.
    """

    phase = Phase.MONITORING

    def __init__(self, config: str | None = None) -> None:
        self.config = config
        self._charts = Charts()
        self._summarised: dict[Stage, set[str]] = {}
        self._round_began: float | None = None
        self._examined: Examined | None = None

    # Numbers, for every logger

    def on_metrics(
        self, trainer: L.Trainer, federation: FederationView, stage: Stage, values: Mapping[str, float]
    ) -> None:
        """Log the summary of the headline metric on own and on global data."""
        if stage == "test":
            table = results_table(values, list(federation.everyone()))
            for writer in _writers(trainer):
                writer.add_text("federation/test_results", table, federation.current_round)
        else:
            self._charts.add(values)
        if stage == "train":
            return
        means, rest = federation_figures(headlines(federation.members()), stage, values, federated_callbacks(trainer))
        federation.logbook.withdraw(trainer, self._summarised.get(stage, set()) - means.keys() - rest.keys())
        self._summarised[stage] = {*means, *rest}
        federation.log_round(means, prog_bar=stage == "val")
        federation.log_round(rest)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._round_began = perf_counter()

    def on_round_resume(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Stop the clock, since half a round would count as a fast one."""
        del trainer, federation, round_index
        self._round_began = None

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Log the learning rates of the round and its duration in seconds, validation not included."""
        if not of_type(trainer, LearningRateMonitor):
            rates = learning_rates(federation, federation.active_names(round_index))
            self._charts.add(rates)
            federation.log_round(rates)
        if self._round_began is None:
            return
        # Past Lightning's own log: a time differs from run to run, and what can be monitored should not.
        seconds = perf_counter() - self._round_began
        give_loggers(trainer, {SECONDS: seconds}, round_index + 1, round_index)
        self._charts.add([SECONDS])

    # Text, charts and pictures, for TensorBoard

    def prepare(self, trainer: L.Trainer, federation: FederationView) -> None:
        """Write the tables of participants and sharing, and the label distributions."""
        self._charts, self._examined, self._summarised = Charts(), None, {}
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # the Trainer sets it where no checker looks
            log_hyperparameters(trainer, federation, self.config)
        writers = _writers(trainer)
        if not writers:
            return
        everyone = roles(trainer, federation, MAX_PARTICIPANTS)
        counts = label_counts(federation, MAX_PARTICIPANTS) if has_pictures() else {}
        for writer in writers:
            introduce(
                SummaryBoard(writer), everyone, len(federation.everyone()),
                config=self.config, callbacks=of_type(trainer, L.Callback), label_counts=counts, step=0,
            )  # fmt: skip

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lay out the charts once there are metrics, and again when further ones appear."""
        federation: FederationView = pl_module  # type: ignore[assignment]
        writers = _writers(trainer)
        if not writers:
            return
        self._charts.add(key for key in trainer.callback_metrics if key.startswith("federation/"))
        layout = self._charts.changed(list(federation.everyone()))
        for writer in writers if layout else ():
            writer.add_custom_scalars(layout)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw confusion matrices and the teachers' agreement in the last round that distilled."""
        federation: FederationView = pl_module  # type: ignore[assignment]
        writers = _writers(trainer) if plots.available() else []
        if not writers:
            return
        step = federation.current_round
        for writer in writers:
            show_agreement(SummaryBoard(writer), agreement_of(of_type(trainer, L.Callback)), step)
        found = self.examined(trainer, federation)
        for name, matrix in found.confusions.items():
            for writer in writers:
                figure = plots.confusion_matrix(matrix.numpy(), name=name, where=found.where)
                writer.add_figure(f"confusion_matrix/{name}", figure, step)
        for name, sample in found.residuals.items():
            for writer in writers:
                writer.add_figure(f"residuals/{name}", plots.residuals({name: sample}, where=found.where), step)

    def examined(self, trainer: L.Trainer, federation: FederationView) -> Examined:
        """Predictions of all trained participants on validation data, computed once for all callers.

        Args:
            trainer: Trainer at the end of a fit.
            federation: The federation.
        """
        if self._examined is None:
            try:
                self._examined = examine(trainer, federation)
            except Exception:  # A participant may validate in a way of its own, and a picture must not end a run.
                log.warning("No confusion matrices: validation data could not be evaluated once more.", exc_info=True)
                self._examined = Examined({}, {}, "")
        return self._examined


def learning_rates(federation: FederationView, names: Iterable[str]) -> dict[str, float]:
    """Learning rates by tag: ``lr/hospital_a``, or ``lr_1``, ``lr_2`` for several parameter groups.

    Args:
        federation: The federation, in a fit.
        names: Names of the participants.
    """
    rates = {}
    for name in names:
        groups = [group for optimizer in federation.local[name].optimizers for group in optimizer.param_groups]
        for number, group in enumerate(groups, start=1):
            rates[tag("lr" if len(groups) == 1 else f"lr_{number}", name)] = float(group["lr"])
    return rates


def _writers(trainer: L.Trainer) -> list[SummaryWriter]:
    """Writers of the first process's TensorBoard loggers, for text and pictures; ``fast_dev_run`` leaves none."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
