"""Tables and figures of results: own and global figures, with and without the federation, and participants harmed."""

from __future__ import annotations

import math

from hetfed_lightning import plots
from hetfed_lightning.cli.outcomes import (
    ARMS,
    TITLES,
    Arm,
    Outcome,
    Scope,
    by_seed,
    mean_of,
    of_metric,
    paired_gains,
    spread,
    verdicts,
)
from hetfed_lightning.cli.report.markup import grid, paragraph, picture, section, table, text
from hetfed_lightning.cli.report.sources import Subject, members
from hetfed_lightning.intervals import Interval, mean_interval
from hetfed_lightning.participants.student_name import STUDENT

LABELS: dict[str, str] = {"federation": "federation", "local_only": "local only", "centralised": "centralised"}

MOST_NAMED = 10
"""Largest number of undefined figures that are named."""


def results(subject: Subject) -> str:
    """Section with the headline metric's table, the other metrics' behind a click, then scatter and gain."""
    if not any(not math.isnan(value) for one in subject.outcomes for value in (one.own, one.everyone)):
        return section("Results", paragraph("Nobody has been measured in this run."))
    headline = of_metric(subject.outcomes, None) if any(one.headline for one in subject.outcomes) else []
    seeds = len({one.seed for one in subject.outcomes})
    known = f"{subject.measured} sets; own: each participant's own data, global: everyone's"
    if seeds > 1:
        known += f"; mean ± standard deviation over {seeds} seeds; gain: federation against local only, paired by seed"
    pieces = [paragraph(known[0].upper() + known[1:] + "."), _of_metric(subject, headline)]
    others = dict.fromkeys(one.metric for one in subject.outcomes if not one.headline)
    for metric in others:
        found = [one for one in subject.outcomes if one.metric == metric]
        pieces.append(
            f"<details><summary>By {text(metric)}</summary>{_of_metric(subject, found, judged=False)}</details>"
        )
    return section("Results", *pieces, _undefined(subject)) + _figures(subject, headline)


def _undefined(subject: Subject) -> str:
    """Paragraph on figures that a participant's data do not define, which tables show as a dash."""
    stage = "test_" if subject.measured == "test" else "val_"
    found = [(key, why) for key, why in subject.main.undefined.items() if key.startswith(stage)]
    named = [f"{key.rpartition('/')[0]} of {key.rpartition('/')[2]} ({why})" for key, why in found[:MOST_NAMED]]
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return paragraph(f"Undefined on these data, and left out of means: {', '.join(named)}{more}.") if named else ""


def _of_metric(subject: Subject, outcomes: list[Outcome], *, judged: bool = True) -> str:
    names = [name for name in members(subject) if any(one.participant == name for one in outcomes)]
    students = [STUDENT] if any(one.participant == STUDENT for one in outcomes) else []
    metrics = ", ".join(dict.fromkeys(one.metric for one in outcomes))
    arms = [arm for arm in ARMS if any(one.arm == arm for one in outcomes)]
    scopes: list[Scope] = [scope for scope in TITLES if any(not math.isnan(getattr(one, scope)) for one in outcomes)]
    if not scopes:
        return paragraph(f"Nobody has been measured by {metrics}.") if metrics else ""
    compared = {"federation", "local_only"} <= set(arms)
    groups = [(name, [name]) for name in names] + ([("mean", names)] if len(names) > 1 else [])
    groups += [(STUDENT, students)] if students else []
    worst = _worst(outcomes, arms[0], scopes[0], names) if judged and scopes and len(names) > 1 else None
    marks = {names.index(worst): "worst"} if worst else {}
    pieces = []
    # Several arms need a table for each scope: both scopes in one are wider than a page.
    for together in [[scope] for scope in scopes] if len(arms) > 1 else [scopes]:
        header = ["participant"]
        for scope in together:
            header += [f"{TITLES[scope]}: {LABELS[arm]}" for arm in arms]
            header += [f"{TITLES[scope]}: gain [95 %]"] if compared else []
        rows = [
            [title, *(cell for scope in together for cell in _cells(outcomes, arms, scope, group, compared=compared))]
            for title, group in groups
        ]
        what = " and ".join(TITLES[scope] for scope in together)
        pieces.append(table(header, rows, caption=f"{what[0].upper()}{what[1:]} {metrics}", marks=marks))
        marks = {}
    pieces += [paragraph(line) for line in verdicts(outcomes)] if compared else []
    return "".join(pieces)


def _cells(outcomes: list[Outcome], arms: list[Arm], scope: Scope, names: list[str], *, compared: bool) -> list[str]:
    cells = [spread(list(by_seed(outcomes, arm, scope, names, mean_of).values())) for arm in arms]
    return [*cells, gain_cell(mean_interval(paired_gains(outcomes, scope, names)))] if compared else cells


def gain_cell(gain: Interval) -> str:
    """A gain with the ends of its interval; a dash without one."""
    if not gain.count:
        return "-"
    return f"{gain.mean:+.3f}" + (f" [{gain.low:+.3f}, {gain.high:+.3f}]" if gain.known else "")


def _worst(outcomes: list[Outcome], arm: Arm, scope: Scope, names: list[str]) -> str | None:
    higher = all(one.higher_is_better for one in outcomes)
    means = {name: mean_of(by_seed(outcomes, arm, scope, [name], mean_of).values()) for name in names}
    known = {name: value for name, value in means.items() if not math.isnan(value)}
    return (min if higher else max)(known, key=lambda name: known[name]) if known else None


def _figures(subject: Subject, outcomes: list[Outcome]) -> str:
    metric = ", ".join(dict.fromkeys(one.metric for one in outcomes))
    names = members(subject)
    pieces = []
    points = {}
    for arm in ARMS:
        both = {
            name: (own, everyone)
            for name in names
            if not math.isnan(own := mean_of(by_seed(outcomes, arm, "own", [name], mean_of).values()))
            and not math.isnan(everyone := mean_of(by_seed(outcomes, arm, "everyone", [name], mean_of).values()))
        }
        if both:
            points[LABELS[arm]] = both
    if points:
        pieces.append(picture(
            plots.own_against_global(points, metric=metric),
            f"Scatter of {metric} on own data (across) against everyone's data (up): "
            + "; ".join(f"{arm}: {len(found)} participants" for arm, found in points.items()),
            "Above the dotted line a participant does better on everyone's data than on its own.",
        ))  # fmt: skip
    for scope in TITLES:
        gains = {name: mean_interval(found) for name in names if (found := paired_gains(outcomes, scope, [name]))}
        if gains:
            told = ", ".join(f"{name} {one.mean:+.3f}" for name, one in list(gains.items())[:12])
            ends = "Bars: 95 % intervals over seeds. " if any(one.known for one in gains.values()) else ""
            pieces.append(picture(
                plots.gain(gains, metric=metric, title=f"Gain over local only: {TITLES[scope]} {metric}"),
                f"Gain over local only in {TITLES[scope]} {metric}: {told}",
                f"{ends}Left of the line, in red: worse off than alone.",
            ))  # fmt: skip
    return section("Who gains" if subject.is_comparison else "Own data and everyone's", grid(pieces))
