"""The one metric of every participant that matters, summarised over all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from hetfed_lightning.ledger import tag
from hetfed_lightning.metrics import FairnessSummary, summarise

if TYPE_CHECKING:
    from hetfed_lightning.participant import Participant, Stage


class Headline(NamedTuple):
    """The metric by which a participant is judged.

    Attributes:
        metric: Its name without the stage, such as ``"accuracy"``.
        higher_is_better: Whether a larger value is better.
    """

    metric: str
    higher_is_better: bool


def headlines(members: Mapping[str, Participant]) -> dict[str, Headline]:
    """The headline metric of every participant, by name."""
    return {name: Headline(one.task.headline, one.task.higher_is_better) for name, one in members.items()}


def headline_summaries(
    of_members: Mapping[str, Headline], stage: Stage, values: Mapping[str, float]
) -> dict[tuple[str, bool], FairnessSummary]:
    """Summary of the headline metric over the participants, by metric and whether it is on everyone's data.

    Args:
        of_members: The participants' headline metrics by name; a student is not among them.
        stage: ``"val"`` or ``"test"``.
        values: The participants' figures by tag; those who have none are left out.
    """
    summaries = {}
    for everyone in (False, True):
        for headline, higher in dict(of_members.values()).items():
            found = {
                name: values[key]
                for name in of_members
                if (key := tag(f"{stage}_{headline}", name, everyone=everyone)) in values
            }
            if found:
                summaries[headline, everyone] = summarise(found, higher_is_better=higher)
    return summaries


def summary_figures(
    summaries: Mapping[tuple[str, bool], FairnessSummary], stage: Stage
) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of the federation by tag: the means, and worst, standard deviation and Jain's index.

    Args:
        summaries: As :func:`headline_summaries` gives them; what is NaN is left out.
        stage: ``"val"`` or ``"test"``.
    """
    means: dict[str, float] = {}
    rest: dict[str, float] = {}
    for (headline, everyone), summary in summaries.items():
        base = f"federation/{stage}_{'global_' if everyone else ''}{headline}"
        means[f"{base}_mean"] = summary.mean
        rest |= {f"{base}_worst": summary.worst, f"{base}_std": summary.std, f"{base}_jain": summary.jain}
    return _known(means), _known(rest)


def _known(values: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in values.items() if not math.isnan(value)}
