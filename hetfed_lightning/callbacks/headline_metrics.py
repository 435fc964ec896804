"""The one metric of every participant that matters, summarised over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from hetfed_lightning.logs.metric_store import tag
from hetfed_lightning.metrics import FairnessSummary, summarise

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant, Stage


LOSS = "loss"
"""Name of the loss among a participant's figures, less the stage."""


class Headline(NamedTuple):
    """The metric by which a participant is judged.

    Attributes:
        metric: Its name without the stage, such as ``"accuracy"``.
        higher_is_better: Whether a larger value is better.
        kind: Of its outputs, such as ``"multiclass"``; losses of one kind have one unit.
    """

    metric: str
    higher_is_better: bool
    kind: str = ""


def headlines(members: Mapping[str, Participant]) -> dict[str, Headline]:
    """The headline metric of every participant, by name."""
    return {
        name: Headline(one.task.headline, one.task.higher_is_better, one.task.kind) for name, one in members.items()
    }


def headline_summaries(
    of_members: Mapping[str, Headline], stage: Stage, values: Mapping[str, float]
) -> dict[tuple[str, bool], FairnessSummary]:
    """Summary of the headline metric over the participants, by metric and whether it is on everyone's data.

    Args:
        of_members: The participants' headline metrics by name; a student is not among them.
        stage: ``"val"`` or ``"test"``.
        values: The participants' figures by tag; those who have none, since their data do not define it, are left out.
    """
    metrics = {one.metric: one.higher_is_better for one in of_members.values()}
    return _summaries(of_members, metrics, stage, values)


def loss_summaries(
    of_members: Mapping[str, Headline], stage: Stage, values: Mapping[str, float]
) -> dict[tuple[str, bool], FairnessSummary]:
    """Summary of the loss over the participants; empty where losses are of several kinds, which have no mean.

    Args:
        of_members: The participants' headline metrics by name; a student is not among them.
        stage: ``"val"`` or ``"test"``.
        values: The participants' figures by tag.
    """
    if len({one.kind for one in of_members.values()}) > 1:
        return {}
    return _summaries(of_members, {LOSS: False}, stage, values)


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


def summary_figures(
    summaries: Mapping[tuple[str, bool], FairnessSummary], stage: Stage
) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of the federation by tag: the means, and worst, standard deviation and Jain's index.

    Args:
        summaries: As :func:`headline_summaries` and :func:`loss_summaries` give them.
        stage: ``"val"`` or ``"test"``.
    """
    means: dict[str, float] = {}
    rest: dict[str, float] = {}
    for (headline, everyone), summary in summaries.items():
        base = f"federation/{stage}_{'global_' if everyone else ''}{headline}"
        means[f"{base}_mean"] = summary.mean
        rest |= {f"{base}_worst": summary.worst, f"{base}_std": summary.std, f"{base}_jain": summary.jain}
    return means, rest
