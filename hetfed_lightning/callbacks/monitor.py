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
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchmetrics.classification import BinaryConfusionMatrix, MulticlassConfusionMatrix

from hetfed_lightning.callbacks import figures
from hetfed_lightning.callbacks.backbone_averaging import BackboneAveraging
from hetfed_lightning.callbacks.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.callbacks.sharing import readable_bytes
from hetfed_lightning.data.module import GLOBAL
from hetfed_lightning.ledger import tag
from hetfed_lightning.metrics import FairnessSummary, payload_bytes, summarise
from hetfed_lightning.participant import Participant, output_width, split_batch
from hetfed_lightning.preflight import first_batch, outputs_of
from hetfed_lightning.rounds import FederatedCallback, Phase

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from hetfed_lightning.federation import Federation
    from hetfed_lightning.participant import Stage

log = logging.getLogger(__name__)

C = TypeVar("C", bound=L.Callback)

Layout = dict[str, dict[str, list[Any]]]
"""Charts by category and title, each ``["Multiline", [tag, ...]]``, as ``add_custom_scalars`` takes them."""

MAX_CLASSES = 30
"""A confusion matrix of more classes cannot be read."""

MAX_PARTICIPANTS = 200
"""Participants with a row in a table, a line in a chart and a row in the picture of labels; the first ones."""

MAX_CONFUSIONS = 16
"""Participants whose confusion matrix is drawn; each takes a third of a second, and few would be looked at."""

_SECONDS = "federation/seconds_per_round"
_SUMMARY = re.compile(r"federation/(?P<stage>[a-z]+)_(?:global_)?(?P<headline>.+)_(?P<figure>mean|worst|std|jain)")


class FederationMonitor(FederatedCallback):
    """Logs what belongs to all: mean, worst, standard deviation and Jain's index of the participants' headline metric.

    Also every participant's learning rate (``lr/hospital_a``), unless a ``LearningRateMonitor`` does, which knows the
    participants of those optimizers alone that have a scheduler.

    A number that is NaN is not logged. For a ``TensorBoardLogger`` it also writes, and never in ``fast_dev_run``:
    a table of the participants, the run's configuration, who averages what with whom, charts with a line per
    participant, the label distributions, and at the end confusion matrices, the teachers' agreement and a table of
    test results. Pictures need matplotlib, the extra ``plots``.

    Args:
        config: The run's configuration as YAML, shown as text; None shows none. The command line sets it.
    """

    phase = Phase.MONITORING

    def __init__(self, config: str | None = None) -> None:
        self.config = config
        self._tags: set[str] = set()
        self._laid_out: set[str] = set()
        self._round_began: float | None = None

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
        if not _of_type(trainer, LearningRateMonitor):
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
        self._tags, self._laid_out = set(), set()
        writers = _writers(trainer)
        if not writers:
            return
        pages = {"federation/participants": participants_table(trainer, federation)}
        if self.config:
            pages["config"] = f"```yaml\n{self.config.strip()}\n```"
        reports = [callback.report for callback in _of_type(trainer, BackboneAveraging) if callback.report]
        if reports:
            # As a list, whose lines TensorBoard wraps.
            pages["federation/sharing"] = "\n\n".join(report.replace("\n  ", "\n\n* ") for report in reports)
        for writer in writers:
            for name, text in pages.items():
                writer.add_text(name, text)
        if not figures.available():
            log.info("No pictures for TensorBoard: they need matplotlib (pip install 'hetfed-lightning[plots]').")
            return
        counts = label_counts(federation)
        for writer in writers if counts else ():
            writer.add_figure("federation/label_distribution", figures.label_distribution(counts))

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
        writers = _writers(trainer) if figures.available() else []
        if not writers:
            return
        step = federation.current_round
        for callback in _of_type(trainer, EnsembleDistillation):
            names, agreement = callback.agreement or ((), torch.empty(0))
            for writer in writers if names else ():
                figure = figures.teacher_agreement(names, agreement.numpy())
                writer.add_figure("federation/teacher_agreement_matrix", figure, step)
        try:
            matrices, where = confusion_matrices(trainer, federation)
        except Exception:  # A participant may validate in a way of its own, and a picture must not end a run.
            log.warning("No confusion matrices: validation data could not be evaluated once more.", exc_info=True)
            return
        for name, matrix in matrices.items():
            for writer in writers:
                figure = figures.confusion_matrix(matrix.numpy(), name=name, where=where)
                writer.add_figure(f"confusion_matrix/{name}", figure, step)


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
    averaged: dict[str, int] = defaultdict(int)
    for callback in _of_type(trainer, BackboneAveraging):
        for group in callback.groups:
            size = payload_bytes(federation[group.members[0]].state_of(group.keys))
            for name in group.members:
                averaged[name] += size
    members = federation.members()
    data = federation.federated_data
    rows = [
        [
            name.replace("_", r"\_"),
            _architecture(participant),
            " + ".join(map(_optimizer, federation.local[name].optimizers)),
            f"{sum(parameter.numel() for parameter in participant.parameters()):,}",
            readable_bytes(averaged[name]),
            f"{data.num_samples(name):,}" if name in members else "-",
            str(participant.local_epochs) if name in members else "-",
            str(participant.joins_at) if name in members else "-",
        ]
        for name, participant in islice(federation.everyone().items(), MAX_PARTICIPANTS)
    ]
    # Short, and names without the narrow type of code: TensorBoard makes the columns equally wide.
    head = "name", "architecture", "optimizer", "weights", "shared", "examples", "epochs", "joins"
    return _markdown(head, rows) + _and_more(len(federation.everyone()))


def _and_more(count: int) -> str:
    return f"\n\nand {count - MAX_PARTICIPANTS:,} more" if count > MAX_PARTICIPANTS else ""


def _architecture(participant: Participant) -> str:
    parts = [participant.backbone, *([] if isinstance(participant.head, torch.nn.Identity) else [participant.head])]
    return " + ".join(type(part).__name__ for part in parts)


def _optimizer(optimizer: torch.optim.Optimizer) -> str:
    rates = dict.fromkeys(f"{group['lr']:g}" for group in optimizer.param_groups)
    return f"{type(optimizer).__name__}, lr {' / '.join(rates)}"


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


def label_counts(federation: Federation) -> dict[str, Any]:
    """Training examples per class of every participant whose task knows classes, as arrays by name."""
    data = federation.federated_data
    counts = {}
    for name, participant in islice(federation.members().items(), MAX_PARTICIPANTS):
        inputs, _ = split_batch(first_batch(data.source(name).dataset))
        width = output_width(outputs_of(participant, inputs, "its training data"))
        found = participant.task.class_counts(data.train_targets(name), width)
        if found is not None:
            counts[name] = found.numpy()
    return counts


@torch.no_grad()
def confusion_matrices(trainer: L.Trainer, federation: Federation) -> tuple[dict[str, Tensor], str]:
    """Confusion matrices on validation data, by name, and which data that was.

    One pass over everyone's validation set where there is one, so that all participants show all classes, and
    over each one's own set elsewhere. Participants with other tasks or more than ``MAX_CLASSES`` are left out.
    """
    loaders = federation.federated_data.val_dataloader() if trainer.limit_val_batches else {}
    members, joined = federation.members(), federation.joined(federation.current_round - 1)
    if GLOBAL in loaders:
        names = [name for name in federation.everyone() if name in joined or name not in members]
        work = {GLOBAL: _drawn(names)}
    else:
        work = {name: [name] for name in _drawn([name for name in joined if name in loaders])}
    matrices: dict[str, Any] = {}
    for owner, students in work.items():
        for batch in islice(loaders[owner], _limit(trainer, loaders[owner])):
            for name in students:
                _count(trainer, federation[name], batch, matrices)
    where = "everyone's validation set" if GLOBAL in loaders else "own validation set"
    return {name: matrix.compute().cpu() for name, matrix in matrices.items()}, where


def _count(trainer: L.Trainer, participant: Participant, batch: Any, matrices: dict[str, Any]) -> None:
    if participant.task.kind not in {"multiclass", "binary"}:
        return
    name = participant.name or ""
    training = participant.training
    participant.eval()
    with trainer.precision_plugin.forward_context():
        moved = trainer.strategy.batch_to_device(batch, participant.device)
        inputs, target = split_batch(participant.on_after_batch_transfer(moved, 0))
        outputs = participant(inputs)
    participant.train(training)
    width = output_width(outputs)
    if width > MAX_CLASSES or target is None:
        return
    if name not in matrices:
        many = participant.task.kind == "multiclass"
        # Other processes do not draw, and setting this later has no effect.
        made = (
            MulticlassConfusionMatrix(width, sync_on_compute=False)
            if many
            else BinaryConfusionMatrix(sync_on_compute=False)
        )
        matrices[name] = made.to(participant.device)
    predictions = participant.task.predictions(outputs)
    matrices[name].update(predictions, target.reshape(predictions.shape[:1]))


def _drawn(names: list[str]) -> list[str]:
    if len(names) > MAX_CONFUSIONS:
        log.info("Confusion matrices are drawn for %d of %d participants.", MAX_CONFUSIONS, len(names))
    return names[:MAX_CONFUSIONS]


def _limit(trainer: L.Trainer, loader: Any) -> int | None:
    limit = trainer.limit_val_batches
    if isinstance(limit, int) or limit is None or not hasattr(loader, "__len__"):
        return limit if isinstance(limit, int) else None
    return max(1, int(len(loader) * limit))


def _log_numbers(federation: Federation, values: Mapping[str, float], *, prog_bar: bool = False) -> None:
    federation.log_round({key: value for key, value in values.items() if not math.isnan(value)}, prog_bar=prog_bar)


def _writers(trainer: L.Trainer) -> list[SummaryWriter]:
    """Where text and pictures go: the first process's TensorBoard loggers, of which ``fast_dev_run`` leaves none."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _of_type(trainer: L.Trainer, kind: type[C]) -> list[C]:
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]
