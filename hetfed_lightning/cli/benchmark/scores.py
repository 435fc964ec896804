"""Figures of a benchmark's rows on one data set: means over seeds, differences paired by seed, and costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hetfed_lightning.cli.benchmark.results import Figure, Result
from hetfed_lightning.cli.outcomes import mean_of
from hetfed_lightning.participants.participant import STUDENT

Scope = Literal["own", "everyone"]
Which = Literal["last", "best"]


@dataclass(frozen=True)
class Score:
    """Figures of one row on one data set, by seed; positive differences are better, whatever the metric.

    Attributes:
        method: Title of the row.
        own: Mean over participants on their own test sets, by seed.
        everyone: Mean over participants on everyone's test set.
        own_best: Own figure of the best validation round.
        everyone_best: Global figure of that round.
        worst: Own figure of the participant that is worst off.
        harmed: Share of participants whose own figure is worse than alone, over all seeds; NaN without local only.
        bytes: Bytes sent and received by all participants.
        seconds: Seconds of training.
        rounds: Rounds to the target, NaN if it was not reached.
        refused: Why it cannot train on these data; empty if it did.
        higher_is_better: True if larger figures are better.
    """

    method: str
    own: Mapping[int, float]
    everyone: Mapping[int, float]
    own_best: Mapping[int, float]
    everyone_best: Mapping[int, float]
    worst: Mapping[int, float]
    harmed: float
    bytes: Mapping[int, float]
    seconds: Mapping[int, float]
    rounds: Mapping[int, float]
    refused: str
    higher_is_better: bool


def scores_of(
    results: Sequence[Result], data: str, target: float | None = None, local: str = "local"
) -> dict[str, Score]:
    """Scores of all rows on one data set, by title.

    Args:
        results: Results of a benchmark.
        data: Title of the data set.
        target: Validation figure for "rounds to target"; None to leave that out.
        local: Title of the row of participants alone.
    """
    rows: dict[str, list[Result]] = {}
    for one in results:
        if one.data == data:
            rows.setdefault(one.method, []).append(one)
    alone = {one.seed: _by_participant(one.last) for one in rows.get(local, ()) if not one.refused}
    return {title: _score(title, found, alone, target) for title, found in rows.items()}


def paired(first: Mapping[int, float], second: Mapping[int, float], *, higher_is_better: bool) -> list[float]:
    """Differences ``first - second`` on equal seeds, for errors the other way round; without NaN."""
    sign = 1 if higher_is_better else -1
    gains = [sign * (first[seed] - second[seed]) for seed in first if seed in second]
    return [one for one in gains if not math.isnan(one)]


def rounds_to(curve: Sequence[float], target: float, *, higher_is_better: bool) -> float:
    """First round, from 1, whose figure reaches a target; NaN if none does.

    Args:
        curve: Figure by round.
        target: The target.
        higher_is_better: True if figures rise to it.
    """
    sign = 1 if higher_is_better else -1
    reached = (index for index, one in enumerate(curve, start=1) if sign * one >= sign * target)
    return float(next(reached, math.nan))


def _score(
    title: str, results: Sequence[Result], alone: Mapping[int, Mapping[str, float]], target: float | None
) -> Score:
    ran = [one for one in results if not one.refused]
    higher = all(each.higher_is_better for one in ran for each in _counted(one.last))
    worst: Callable[[Iterable[float]], float] = min if higher else max

    def mean(scope: Scope, which: Which = "last") -> dict[int, float]:
        return {one.seed: mean_of(getattr(each, scope) for each in _counted(getattr(one, which))) for one in ran}

    harmed = [
        float((1 if higher else -1) * (value - alone[one.seed][name]) < 0)
        for one in ran
        if one.seed in alone
        for name, value in _by_participant(one.last).items()
        if name in alone[one.seed]
    ]
    return Score(
        title,
        mean("own"),
        mean("everyone"),
        mean("own", "best"),
        mean("everyone", "best"),
        {one.seed: worst(found) for one in ran if (found := list(_by_participant(one.last).values()))},
        mean_of(harmed),
        {one.seed: one.bytes_up + one.bytes_down for one in ran},
        {one.seed: one.seconds for one in ran},
        {}
        if target is None
        else {one.seed: rounds_to(one.curve, target, higher_is_better=higher) for one in ran if one.curve},
        next((one.refused for one in results if one.refused), ""),
        higher,
    )


def _counted(figures: Iterable[Figure]) -> list[Figure]:
    return [one for one in figures if one.headline and one.participant != STUDENT]


def _by_participant(figures: Iterable[Figure]) -> dict[str, float]:
    return {one.participant: one.own for one in _counted(figures) if not math.isnan(one.own)}
