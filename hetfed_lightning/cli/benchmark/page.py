"""A benchmark as one HTML page that needs no other file; without matplotlib it has tables alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hetfed_lightning import plots
from hetfed_lightning.cli.benchmark.results import Result
from hetfed_lightning.cli.benchmark.scores import Scope, Score, paired, scores_of
from hetfed_lightning.cli.benchmark.statistics import bootstrap_interval
from hetfed_lightning.cli.benchmark.suite import LOCAL, Suite
from hetfed_lightning.cli.benchmark.tables import (
    FEDAVG,
    NOTES,
    data_table,
    ranks_of,
    ranks_sentence,
    ranks_table,
    refusals,
    titled,
)
from hetfed_lightning.cli.benchmark.tuning import Search, choices_table, tuning_sentence
from hetfed_lightning.cli.outcomes import TITLES
from hetfed_lightning.cli.report.markup import folded, grid, paragraph, picture, section, table, text
from hetfed_lightning.cli.report.page import STYLE


def benchmark_page(
    results: Sequence[Result],
    suite: Suite,
    searches: Mapping[tuple[str, str], Search] | None = None,
    *,
    title: str = "Benchmark",
) -> str:
    """Complete HTML document with the tables, gains over local only, and ranks.

    Args:
        results: Results of all cells.
        suite: What was compared.
        searches: Trials by which settings were chosen; None if they were not.
        title: Title of the document.
    """
    parts = [_of_data(results, suite, data) for data in suite.data]
    ranks = ranks_of(results, suite)
    if ranks is not None:
        found = ranks_table(ranks)
        drawn = picture(plots.mean_ranks(ranks.mean), "Mean ranks of the methods") if _draws(ranks.mean) else ""
        told = paragraph(ranks_sentence(ranks))
        parts.append(section("Ranks", told, table(found.header, found.rows, caption="Mean ranks"), drawn, level=2))
    chosen = [(data, choices_table(searches, data)) for data in suite.data] if searches else []
    if suite.tuning is not None and chosen:
        tables = [table(found.header, found.rows, caption=data) for data, found in chosen]
        parts.append(section("What was chosen", paragraph(tuning_sentence(suite.tuning)), *tables, level=2))
    versions = dict.fromkeys(f"{name} {one}" for each in results for name, one in each.versions.items())
    seeds = ", ".join(map(str, suite.seeds))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{text(title)}</h1>{paragraph(NOTES)}{paragraph(f'Seeds: {seeds}.')}</header>"
        f"<main>{''.join(parts)}{_cells(results)}</main>"
        f"<footer>Written by hetfed-lightning; run by {text(', '.join(versions))}.</footer></body></html>\n"
    )


def _of_data(results: Sequence[Result], suite: Suite, data: str) -> str:
    local = titled(suite, LOCAL)
    scores = scores_of(results, data, suite.data[data].target, local or "")
    found = data_table(scores, local, titled(suite, FEDAVG))
    figures = [_gains(scores, scores[local], scope) for scope in TITLES] if local in scores and local else []
    told = "".join(paragraph(f"No result: {line}") for line in refusals(scores))
    return section(data, table(found.header, found.rows, caption=data), told, grid(filter(None, figures)), level=2)


def _gains(scores: Mapping[str, Score], local: Score, scope: Scope) -> str:
    """Picture of the rows' gains over local only; empty without any."""
    intervals = {}
    for title, one in scores.items():
        gains = paired(getattr(one, scope), getattr(local, scope), higher_is_better=one.higher_is_better)
        if gains and one is not local:
            intervals[title] = bootstrap_interval(gains)
    if not intervals or not plots.available():
        return ""
    figure = plots.gain(intervals, metric=f"{TITLES[scope]} figure")
    return picture(figure, f"Gains over local only, {TITLES[scope]} figure")


def _draws(ranks: Mapping[str, float]) -> bool:
    return plots.available() and not any(map(math.isnan, ranks.values()))


def _cells(results: Sequence[Result]) -> str:
    lines = [f"{one.fingerprint[:12]}  {one.data}, {one.method}, seed {one.seed}" for one in results]
    return folded("Fingerprints of all cells", "\n".join(lines))
