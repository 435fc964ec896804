"""Headline metric of every participant and its summary over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from hetfed_lightning.logs.metric_store import tag
from hetfed_lightning.metrics import FairnessSummary, summarise

if TYPE_CHECKING:
    from hetfed_lightning.federated_callback import FederatedCallback
    from hetfed_lightning.participants.participant import Participant, Stage


LOSS = "loss"
"""Name of the loss among a participant's metrics, without the stage."""


class Headline(NamedTuple):
    """Metric by which a participant is judged.

    Attributes:
        metric: Name without the stage, such as ``"accuracy"``.
        higher_is_better: True if a larger value is better.
        kind: Kind of outputs, such as ``"multiclass"``; losses of one kind have one unit.
    """

    metric: str
    higher_is_better: bool
    kind: str = ""


def headlines(members: Mapping[str, Participant]) -> dict[str, Headline]:
    """Headline metric of every participant, by name."""
    return {
        name: Headline(one.task.headline, one.task.higher_is_better, one.task.kind) for name, one in members.items()
    }


def headline_summaries(
    of_members: Mapping[str, Headline], stage: Stage, values: Mapping[str, float]
) -> dict[tuple[str, bool], FairnessSummary]:
    """Summary of the headline metric over participants, by metric and True for global data.

    Args:
        of_members: Headline metrics by participant, without the student.
        stage: ``"val"`` or ``"test"``.
        values: Metrics by tag; participants without one, since their data do not define it, are left out.
    """
    metrics = {one.metric: one.higher_is_better for one in of_members.values()}
    return _summaries(of_members, metrics, stage, values)


def loss_summaries(
    of_members: Mapping[str, Headline], stage: Stage, values: Mapping[str, float]
) -> dict[tuple[str, bool], FairnessSummary]:
    """Summary of the loss over participants; empty for losses of several kinds, which have no common mean.

    Args:
        of_members: Headline metrics by participant, without the student.
        stage: ``"val"`` or ``"test"``.
        values: Metrics by tag.
    """
    if len({one.kind for one in of_members.values()}) > 1:
        return {}
    return _summaries(of_members, {LOSS: False}, stage, values)


def model_summaries(
    of_members: Mapping[str, Headline], stage: Stage, values: Mapping[str, float]
) -> dict[tuple[str, bool], FairnessSummary]:
    """Summaries of headline metric and loss of methods' further models, as ``accuracy.NAME`` and ``loss.NAME``.

    Args:
        of_members: Headline metrics by participant, without the student.
        stage: ``"val"`` or ``"test"``.
        values: Metrics by tag; empty without a method that has ``answers``.
    """
    losses = (f"{stage}_{LOSS}.", f"{stage}_global_{LOSS}.")
    models = dict.fromkeys(key.partition("/")[0].rpartition(".")[2] for key in values if key.startswith(losses))
    metrics = {LOSS: False} if len({one.kind for one in of_members.values()}) == 1 else {}
    metrics |= {one.metric: one.higher_is_better for one in of_members.values()}
    of_models = {f"{metric}.{model}": higher for model in models for metric, higher in metrics.items()}
    return _summaries(of_members, of_models, stage, values)


def _summaries(
    names: Iterable[str], metrics: Mapping[str, bool], stage: Stage, values: Mapping[str, float]
) -> dict[tuple[str, bool], FairnessSummary]:
    names, summaries = list(names), {}
    for everyone in (False, True):
        for metric, higher in metrics.items():
            keys = {name: tag(f"{stage}_{metric}", name, everyone=everyone) for name in names}
            found = {name: values[key] for name, key in keys.items() if key in values}
            if found:
                summaries[metric, everyone] = summarise(found, higher_is_better=higher)
    return summaries


def federation_figures(
    of_members: Mapping[str, Headline],
    stage: Stage,
    values: Mapping[str, float],
    callbacks: Iterable[FederatedCallback] = (),
) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics of the federation by tag, of networks and further models, as a pair as by :func:`summary_figures`.

    Args:
        of_members: Headline metrics by participant, without the student.
        stage: ``"val"`` or ``"test"``.
        values: Metrics by tag.
        callbacks: Callbacks of the run; without one that answers there are no further models.
    """
    summaries = loss_summaries(of_members, stage, values) | headline_summaries(of_members, stage, values)
    if any(callback.gives_answers() for callback in callbacks):
        summaries |= model_summaries(of_members, stage, values)
    return summary_figures(summaries, stage)


def summary_figures(
    summaries: Mapping[tuple[str, bool], FairnessSummary], stage: Stage
) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics of the federation by tag, as a pair: the means; worst, standard deviation and Jain's index.

    Args:
        summaries: Results of :func:`headline_summaries`, :func:`loss_summaries` and :func:`model_summaries`.
        stage: ``"val"`` or ``"test"``.
    """
    means: dict[str, float] = {}
    rest: dict[str, float] = {}
    for (headline, everyone), summary in summaries.items():
        base = f"federation/{stage}_{'global_' if everyone else ''}{headline}"
        means[f"{base}_mean"] = summary.mean
        rest |= {f"{base}_worst": summary.worst, f"{base}_std": summary.std, f"{base}_jain": summary.jain}
    return means, rest
