"""The figures as tables of a page."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev

from scripts.attacking.grid import ABSENT, ATTACKS, ENSEMBLES, NOBODY, OF_HOSPITALS, RULES, Cell
from scripts.attacking.teachers import LIES

BEGIN, END = "<!-- Tables by scripts/attacks.py: -->", "<!-- End of the tables. -->"
CRUDE = ("sign flip", "x100", "Gaussian")
SHOWN = tuple(attack for attack in ATTACKS if attack not in (NOBODY, ABSENT))

Figures = Mapping[Cell, float]


def tables(figures: Figures) -> Iterator[str]:
    """Every table that there are figures for, with a line above it."""
    seeds = sorted({cell.seed for cell in figures})
    data = {cell.data for cell in figures}
    for partition, dealt in (("iid", "dealt evenly"), ("skewed", "labels skewed, Dirichlet 0.3")):
        if (name := f"digits-{partition}") in data:
            yield f"**Digits, {dealt}, two of ten attack** (accuracy; seeds {seeds[0]} to {seeds[-1]}, ± deviation)"
            yield _of_attacks(figures, name, RULES, 2, seeds)
            yield f"Digits, {dealt}, one of ten / three of ten attack"
            yield _of_one_and_three(figures, name, seeds)
    if "hospitals" in data:
        yield "**Hospitals, one of four attacks, another on each seed** (mean balanced accuracy of the others)"
        yield _of_attacks(figures, "hospitals", OF_HOSPITALS, 1, seeds)
    for partition, dealt in (("iid", "dealt evenly"), ("skewed", "labels skewed, Dirichlet 0.3")):
        if (name := f"teachers-{partition}") in data:
            yield f"**A student of ten teachers, digits {dealt}** (accuracy of the student)"
            yield _table(
                ["ensemble", *LIES],
                [
                    [rule, *(_shown(_values(figures, name, lies, rule, len(LIES[lies]), seeds)) for lies in LIES)]
                    for rule in ENSEMBLES
                ],
            )


def page(text: str, made: str, machine: str) -> str:
    """A page with its tables made anew, between the two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    when = dt.datetime.now(dt.UTC).date().isoformat()
    return f"{before}{BEGIN}\n\nMeasured {when} on {machine}.\n\n{made}\n\n{END}{after}"


def _of_attacks(figures: Figures, data: str, rules: Sequence[str], faulty: int, seeds: Sequence[int]) -> str:
    clean = mean(_values(figures, data, NOBODY, "mean", 0, seeds))
    rows = [["*mean of the honest*", "", _shown(_values(figures, data, ABSENT, "mean", faulty, seeds))]]
    rows[0] += [""] * (len(SHOWN) + 1)
    for rule in rules:
        alone = _values(figures, data, NOBODY, rule, 0, seeds)
        under = {attack: _values(figures, data, attack, rule, faulty, seeds) for attack in SHOWN}
        worst = min(mean(under[attack]) for attack in CRUDE)
        points = [_points(mean(alone) - clean), _points(worst - clean)]
        rows.append([rule, _shown(alone), "", *(_shown(found) for found in under.values()), *points])
    head = ["rule", NOBODY, "attackers stay away", *SHOWN, "cost, points", f"worst of {', '.join(CRUDE)}, points"]
    return _table(head, rows)


def _of_one_and_three(figures: Figures, data: str, seeds: Sequence[int]) -> str:
    def both(attack: str, rule: str) -> str:
        one, three = (mean(_values(figures, data, attack, rule, faulty, seeds)) for faulty in (1, 3))
        return f"{_figure(one)} / {_figure(three)}"

    rows = [["*mean of the honest*", both(ABSENT, "mean"), *[""] * len(SHOWN)]]
    rows += [[rule, "", *(both(attack, rule) for attack in SHOWN)] for rule in RULES]
    return _table(["rule", "attackers stay away", *SHOWN], rows)


def _values(figures: Figures, data: str, attack: str, rule: str, faulty: int, seeds: Sequence[int]) -> list[float]:
    return [figures[Cell(data, attack, rule, faulty, seed)] for seed in seeds]


def _shown(values: Sequence[float]) -> str:
    ended = sum(map(math.isnan, values))
    if ended:
        return f"ended ({ended} of {len(values)})"
    return f"{_figure(mean(values))} ± {_figure(stdev(values)) if len(values) > 1 else '-'}"


def _figure(value: float) -> str:
    return "ended" if math.isnan(value) else f"{value:.3f}".removeprefix("0")


def _points(difference: float) -> str:
    return "-" if math.isnan(difference) else f"{100 * difference:+.1f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
