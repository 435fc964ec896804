"""What belongs to the federation as a whole, logged once a round, and pages of it for TensorBoard.

Numbers go to every logger. Text, pictures and the page "Custom Scalars" (one chart per metric with a line per
participant; TensorBoard's own pages draw one chart per tag) go to a ``TensorBoardLogger`` alone, at the beginning
and at the end of a fit, so that a log grows by numbers only, however many rounds there are.
"""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger

from hetfed_lightning import plots
from hetfed_lightning.callbacks.backbone_averaging import BackboneAveraging
from hetfed_lightning.callbacks.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.callbacks.examined import Examined, examine
from hetfed_lightning.callbacks.roles import label_counts, of_type, roles
from hetfed_lightning.callbacks.sharing import readable_bytes
from hetfed_lightning.ledger import tag
from hetfed_lightning.metrics import FairnessSummary, summarise
from hetfed_lightning.rounds import FederatedCallback, Phase

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from hetfed_lightning.federation import Federation
    from hetfed_lightning.participant import Stage

log = logging.getLogger(__name__)

Layout = dict[str, dict[str, list[Any]]]
"""Charts by category and title, each ``["Multiline", [tag, ...]]``, as ``add_custom_scalars`` takes them."""

MAX_PARTICIPANTS = 200
"""Participants with a row in a table, a line in a chart and a row in the picture of labels; the first ones."""

_SECONDS = "federation/seconds_per_round"
_SUMMARY = re.compile(r"federation/(?P<stage>[a-z]+)_(?:global_)?(?P<headline>.+)_(?P<figure>mean|worst|std|jain)")


class FederationMonitor(FederatedCallback):
    """Logs what belongs to all: mean, worst, standard deviation and Jain's index of the participants' headline metric.

    Also every participant's learning rate (``lr/hospital_a``), unless a ``LearningRateMonitor`` does, which knows the
    participants of those optimizers alone that have a scheduler.

    A number that is NaN is not logged. For a ``TensorBoardLogger`` it also writes, and never in ``fast_dev_run``:
    a table of the participants, the run's configuration, who averages what with whom, charts with a line per
    participant, the label distributions, and at the end confusion matrices or predicted against true values, the
    teachers' agreement and a table of test results. Pictures need matplotlib, the extra ``plots``.

    Args:
        config: The run's configuration as YAML, shown as text; None shows none. The command line sets it.
    """

    phase = Phase.MONITORING

    def __init__(self, config: str | None = None) -> None:
        self.config = config
        self._tags: set[str] = set()
        self._laid_out: set[str] = set()
        self._round_began: float | None = None
        self._examined: Examined | None = None

    # Numbers, for every logger

    def on_metrics(self, trainer: L.Trainer, federation: Federation, stage: Stage, values: Mapping[str, float]) -> None:
        """Summarise the participants' headline metric, on their own data and on everyone's."""
        if stage == "test":
            table = results_table(values, list(federation.everyone()))
            for writer in _writers(trainer):
                writer.add_text("federation/test_results", table, federation.current_round)
        else:
            self._tags.update(values)
        if stage == "train":
            return
        for (headline, everyone), summary in headline_summaries(federation, stage, values).items():
            base = f"federation/{stage}_{'global_' if everyone else ''}{headline}"
            _log_numbers(federation, {f"{base}_mean": summary.mean}, prog_bar=stage == "val")
            rest = {f"{base}_worst": summary.worst, f"{base}_std": summary.std, f"{base}_jain": summary.jain}
            _log_numbers(federation, rest)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._round_began = perf_counter()

    def on_round_resume(self, trainer: L.Trainer, federation: Federation, round_index: int) -> None:
        """Stop the clock: half a round would pass for a fast one."""
        del trainer, federation, round_index
        self._round_began = None

    def on_round_end(self, trainer: L.Trainer, federation: Federation, round_index: int) -> None:
        """Log the learning rates of the round, and how long it took, validation not included."""
        if not of_type(trainer, LearningRateMonitor):
            rates = learning_rates(federation, federation.active_names(round_index))
            self._tags.update(rates)
            federation.log_round(rates)
        if self._round_began is None:
            return
        # Past Lightning's own log: a time differs from run to run, and what can be monitored should not.
        seconds = perf_counter() - self._round_began
        for logger in trainer.loggers:
            logger.log_metrics({_SECONDS: seconds}, step=round_index + 1)
        self._tags.add(_SECONDS)

    # Text, charts and pictures, for TensorBoard

    def prepare(self, trainer: L.Trainer, federation: Federation) -> None:
        """Write who takes part, what they share and what they have."""
        self._tags, self._laid_out, self._examined = set(), set(), None
        writers = _writers(trainer)
        if not writers:
            return
        pages = {"federation/participants": participants_table(trainer, federation)}
        if self.config:
            pages["config"] = f"```yaml\n{self.config.strip()}\n```"
        reports = [callback.report for callback in of_type(trainer, BackboneAveraging) if callback.report]
        if reports:
            # As a list, whose lines TensorBoard wraps.
            pages["federation/sharing"] = "\n\n".join(report.replace("\n  ", "\n\n* ") for report in reports)
        for writer in writers:
            for name, text in pages.items():
                writer.add_text(name, text)
        if not plots.available():
            log.info("No pictures for TensorBoard: they need matplotlib (pip install 'hetfed-lightning[plots]').")
            return
        counts = label_counts(federation, MAX_PARTICIPANTS)
        for writer in writers if counts else ():
            writer.add_figure("federation/label_distribution", plots.label_distribution(counts))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lay out the charts, as soon as there are metrics, and again when others turn up."""
        federation: Federation = pl_module  # type: ignore[assignment]
        writers = _writers(trainer)
        if not writers:
            return
        shared = {key for key in trainer.callback_metrics if key.startswith("federation/")}
        tags = self._tags | shared
        if tags != self._laid_out:
            self._laid_out = tags
            layout = chart_layout(tags, list(federation.everyone()))
            for writer in writers:
                writer.add_custom_scalars(layout)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw who confuses what, and which teachers agreed in the last round that asked them."""
        federation: Federation = pl_module  # type: ignore[assignment]
        writers = _writers(trainer) if plots.available() else []
        if not writers:
            return
        step = federation.current_round
        for callback in of_type(trainer, EnsembleDistillation):
            names, agreement = callback.agreement or ((), torch.empty(0))
            for writer in writers if names else ():
                figure = plots.teacher_agreement(names, agreement.numpy())
                writer.add_figure("federation/teacher_agreement_matrix", figure, step)
        found = self.examined(trainer, federation)
        for name, matrix in found.confusions.items():
            for writer in writers:
                figure = plots.confusion_matrix(matrix.numpy(), name=name, where=found.where)
                writer.add_figure(f"confusion_matrix/{name}", figure, step)
        for name, sample in found.residuals.items():
            for writer in writers:
                writer.add_figure(f"residuals/{name}", plots.residuals({name: sample}, where=found.where), step)

    def examined(self, trainer: L.Trainer, federation: Federation) -> Examined:
        """What everyone answers to validation data as training has ended, looked at once for all who ask."""
        if self._examined is None:
            try:
                self._examined = examine(trainer, federation)
            except Exception:  # A participant may validate in a way of its own, and a picture must not end a run.
                log.warning("No confusion matrices: validation data could not be evaluated once more.", exc_info=True)
                self._examined = Examined({}, {}, "")
        return self._examined


def headline_summaries(
    federation: Federation, stage: Stage, values: Mapping[str, float]
) -> dict[tuple[str, bool], FairnessSummary]:
    """Summary of the headline metric over the participants, by metric and whether it is on everyone's data.

    Args:
        federation: Whose participants they are.
        stage: ``"val"`` or ``"test"``.
        values: The participants' figures by tag; those who have none are left out.
    """
    members = federation.members()
    summaries = {}
    for everyone in (False, True):
        for headline, higher in {p.task.headline: p.task.higher_is_better for p in members.values()}.items():
            found = {
                name: values[key]
                for name in members
                if (key := tag(f"{stage}_{headline}", name, everyone=everyone)) in values
            }
            if found:
                summaries[headline, everyone] = summarise(found, higher_is_better=higher)
    return summaries


def learning_rates(federation: Federation, names: Iterable[str]) -> dict[str, float]:
    """Learning rates of some participants by tag: ``lr/hospital_a``, or ``lr_1``, ``lr_2`` for groups of parameters."""
    rates = {}
    for name in names:
        groups = [group for optimizer in federation.local[name].optimizers for group in optimizer.param_groups]
        for number, group in enumerate(groups, start=1):
            rates[tag("lr" if len(groups) == 1 else f"lr_{number}", name)] = float(group["lr"])
    return rates


def chart_layout(tags: Iterable[str], names: Sequence[str]) -> Layout:
    """Charts for the page "Custom Scalars": one per metric with a line per participant, then the federation's own.

    Args:
        tags: What has been logged; a metric needs one participant's tag to get a chart for all, since others may
            join later.
        names: The participants, and the student if there is one.
    """
    tags, known, names = set(tags), set(names), names[:MAX_PARTICIPANTS]
    metrics = {key.rpartition("/")[0] for key in tags if key.rpartition("/")[2] in known} - {""}
    # What people look for first: validation, own before global, the metric before the loss; learning rates last.
    order = sorted(
        metrics,
        key=lambda metric: (not metric.startswith("val_"), metric.startswith("lr"), "loss" in metric, metric),
    )
    of_participants = {metric: [tag(metric, name) for name in names] for metric in order}
    of_all: dict[str, list[str]] = defaultdict(list)
    shared = [key for key in tags if key.startswith("federation/") and not key.startswith("federation/test_")]
    for key in sorted(shared, key=_chart_order):
        of_all[_chart_of(key)].append(key)
    return {
        category: {title: ["Multiline", [_pattern(key, lines) for key in lines]] for title, lines in charts.items()}
        for category, charts in (("participants", of_participants), ("federation", of_all))
        if charts
    }


def _chart_order(key: str) -> tuple[Any, ...]:
    """Validation first, mean before worst, then the rest by name."""
    match = _SUMMARY.fullmatch(key)
    figures_first = ("mean", "worst", "std", "jain")
    return (0, match["headline"], figures_first.index(match["figure"]), key) if match else (1, key)


def _chart_of(key: str) -> str:
    """Title of the chart that a tag of the federation belongs to."""
    match = _SUMMARY.fullmatch(key)
    if match:
        figure = "mean and worst" if match["figure"] in {"mean", "worst"} else match["figure"]
        return f"{match['stage']}_{match['headline']}: {figure}"
    name = key.removeprefix("federation/")
    together = {"bytes_up": "bytes per round", "bytes_down": "bytes per round", "quarantined": "participants"}
    return together.get(name, name)


def _pattern(key: str, lines: Sequence[str]) -> str:
    """TensorBoard reads a line's tag as the beginning of a regular expression: ``site_1`` would find ``site_10``."""
    ends = any(other != key and other.startswith(key) for other in lines)
    return re.escape(key) + ("$" if ends else "")


def participants_table(trainer: L.Trainer, federation: Federation) -> str:
    """Who takes part and with what, a Markdown table."""
    rows = [
        [
            one.name.replace("_", r"\_"),
            one.architecture,
            one.optimizer,
            f"{one.weights:,}",
            readable_bytes(one.shared_bytes),
            *(["-"] * 3 if one.is_student else [f"{one.examples:,}", str(one.local_epochs), str(one.joins_at)]),
        ]
        for one in roles(trainer, federation, MAX_PARTICIPANTS)
    ]
    # Short, and names without the narrow type of code: TensorBoard makes the columns equally wide.
    head = "name", "architecture", "optimizer", "weights", "shared", "examples", "epochs", "joins"
    return _markdown(head, rows) + _and_more(len(federation.everyone()))


def _and_more(count: int) -> str:
    return f"\n\nand {count - MAX_PARTICIPANTS:,} more" if count > MAX_PARTICIPANTS else ""


def results_table(values: Mapping[str, float], names: Sequence[str]) -> str:
    """Test results, a Markdown table with a row per participant and a column per metric.

    Args:
        values: Results by tag.
        names: The participants, and the student if there is one, in order.
    """
    known = set(names)
    metrics = list(dict.fromkeys(key.rpartition("/")[0] for key in values if key.rpartition("/")[2] in known))
    rows = [
        [f"`{name}`", *(_cell(values.get(tag(metric, name), math.nan)) for metric in metrics)]
        for name in names[:MAX_PARTICIPANTS]
    ]
    return _markdown(["participant", *metrics], rows) + _and_more(len(names))


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _log_numbers(federation: Federation, values: Mapping[str, float], *, prog_bar: bool = False) -> None:
    federation.log_round({key: value for key, value in values.items() if not math.isnan(value)}, prog_bar=prog_bar)


def _writers(trainer: L.Trainer) -> list[SummaryWriter]:
    """Where text and pictures go: the first process's TensorBoard loggers, of which ``fast_dev_run`` leaves none."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
