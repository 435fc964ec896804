"""Tables of a benchmark: one per data set, the ranks over all of them, and their CSV and Markdown files."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from hetfed_lightning.cli.benchmark.results import Result
from hetfed_lightning.cli.benchmark.scores import Score, paired, scores_of
from hetfed_lightning.cli.benchmark.statistics import Ranks, bootstrap_interval, friedman_ranks
from hetfed_lightning.cli.benchmark.suite import CENTRALISED, LINEAR, LOCAL, MAJORITY, Suite
from hetfed_lightning.cli.benchmark.tuning import Search, choices_table, tuning_sentence
from hetfed_lightning.cli.outcomes import mean_of, spread
from hetfed_lightning.cli.tables import Table, figure

FEDAVG = "fedavg"
HEADER = (
    "method",
    "own",
    "own, best round",
    "global",
    "global, best round",
    "worst",
    "harmed",
    "own - local",
    "global - local",
    "own - fedavg",
    "global - fedavg",
    "MB",
    "seconds",
    "rounds to target",
)
COLUMNS = ("data", "method", "seed", "participant", "metric", "headline", "round", "own", "global")
NOTES = (
    "Means over participants of each one's headline metric on test sets, mean ± standard deviation over seeds. "
    "Differences are paired by seed, positive is better, with 95 % bootstrap intervals over seeds, which with few "
    "seeds are too narrow. Best round: the weights of the round that was best on validation sets."
)


def titled(suite: Suite, method: str) -> str | None:
    """Title of a suite's first row with a method; None without one."""
    return next((title for title, row in suite.methods.items() if row.method == method), None)


def data_table(scores: Mapping[str, Score], local: str | None, fedavg: str | None) -> Table:
    """Table of one data set, a line per row; columns that nobody has a figure for are left out.

    Args:
        scores: Scores by title.
        local: Title of local only, None without it.
        fedavg: Title of FedAvg, None without it.
    """
    rows = [_line(one, scores.get(local or ""), scores.get(fedavg or "")) for one in scores.values()]
    kept = [place for place in range(len(HEADER)) if place == 0 or any(row[place] != "-" for row in rows)]
    return Table([HEADER[place] for place in kept], [[row[place] for place in kept] for row in rows])


def ranks_of(results: Sequence[Result], suite: Suite) -> Ranks | None:
    """Ranks of the methods over data sets by their global figure, the own one where there is none.

    The references other than local only are no methods and are left out; so are methods that a data set refuses.

    Args:
        results: Results of a benchmark.
        suite: What was compared.

    Returns:
        The ranks; None with fewer than two methods.
    """
    figures: dict[str, list[float]] = {}
    higher = []
    for data in suite.data:
        scores = scores_of(results, data)
        higher.append(all(one.higher_is_better for one in scores.values()))
        globally = any(not math.isnan(mean_of(one.everyone.values())) for one in scores.values())
        for title, one in scores.items():
            if suite.methods[title].method not in {CENTRALISED, LINEAR, MAJORITY}:
                figures.setdefault(title, []).append(mean_of((one.everyone if globally else one.own).values()))
    whole = {title: found for title, found in figures.items() if not any(map(math.isnan, found))}
    return friedman_ranks(whole, higher_is_better=higher) if len(whole) > 1 else None


def ranks_table(ranks: Ranks) -> Table:
    """Table of mean ranks, the best first."""
    ordered = sorted(ranks.mean.items(), key=lambda pair: pair[1])
    return Table(["method", "mean rank"], [[title, figure(rank, 2)] for title, rank in ordered])


def ranks_sentence(ranks: Ranks) -> str:
    """Sentence on the ranks, with the p-value of Friedman's test where it can be made."""
    if math.isnan(ranks.p_value):
        return f"Ranks over {ranks.blocks} data set(s): too few methods or data sets for a test."
    return f"Ranks over {ranks.blocks} data sets; Friedman's test that all methods are alike: p = {ranks.p_value:.3g}."


def refusals(scores: Mapping[str, Score]) -> list[str]:
    """Sentences on rows that cannot train on a data set."""
    return [f"{title}: {one.refused}" for title, one in scores.items() if one.refused]


def markdown(results: Sequence[Result], suite: Suite, searches: Mapping[tuple[str, str], Search] | None = None) -> str:
    """Markdown of all tables.

    Args:
        results: Results of all cells.
        suite: What was compared.
        searches: Trials by which settings were chosen; None if they were not.
    """
    parts = ["# Benchmark", NOTES, f"Seeds: {', '.join(map(str, suite.seeds))}."]
    if searches and suite.tuning is not None:
        parts.append(tuning_sentence(suite.tuning))
    for data, one in suite.data.items():
        scores = scores_of(results, data, one.target, titled(suite, LOCAL) or "")
        parts += [f"## {data}", data_table(scores, titled(suite, LOCAL), titled(suite, FEDAVG)).markdown()]
        parts += [f"- {line}" for line in refusals(scores)]
    ranks = ranks_of(results, suite)
    if ranks is not None:
        parts += ["## Ranks", ranks_sentence(ranks), ranks_table(ranks).markdown()]
    for data in suite.data if searches else ():
        parts += [f"## What was chosen, {data}", choices_table(searches or {}, data).markdown()]
    return "\n\n".join(parts) + "\n"


def write_figures(results: Sequence[Result], path: Path) -> None:
    """Write a CSV file with a line per cell, participant, metric and round (last or best)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for one in results:
            for which, figures in (("last", one.last), ("best", one.best)):
                for each in figures:
                    title = (one.data, one.method, one.seed, each.participant, each.metric, each.headline)
                    writer.writerow((*title, which, each.own, each.everyone))


def _line(one: Score, local: Score | None, fedavg: Score | None) -> list[str]:
    known = [value for value in one.rounds.values() if not math.isnan(value)]
    missed = len(one.rounds) - len(known)
    rounds = f"{mean_of(known):.1f}" if known else "-"
    return [
        one.method,
        _spread(one.own),
        _spread(one.own_best),
        _spread(one.everyone),
        _spread(one.everyone_best),
        _spread(one.worst),
        "-" if math.isnan(one.harmed) or one is local else f"{one.harmed:.0%}",
        _gain(one, local, "own"),
        _gain(one, local, "everyone"),
        _gain(one, fedavg, "own"),
        _gain(one, fedavg, "everyone"),
        f"{mean_of(one.bytes.values()) / 1e6:.3f}" if one.bytes else "-",
        figure(mean_of(one.seconds.values()), 1),
        rounds + (f" ({missed} of {len(one.rounds)} never)" if missed and known else ""),
    ]


def _spread(values: Mapping[int, float]) -> str:
    return spread([one for one in values.values() if not math.isnan(one)])


def _gain(one: Score, other: Score | None, scope: str) -> str:
    if other is None or one is other:
        return "-"
    gains = paired(getattr(one, scope), getattr(other, scope), higher_is_better=one.higher_is_better)
    if not gains:
        return "-"
    interval = bootstrap_interval(gains)
    ends = f" [{interval.low:+.3f}, {interval.high:+.3f}]" if interval.known else ""
    return f"{interval.mean:+.3f}{ends}"
