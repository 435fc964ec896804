"""What a comparison found: a table of it, the differences that count, and files."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from hetfed_lightning.cli.tables import Table, figure
from hetfed_lightning.participant import STUDENT

Arm = Literal["federation", "local_only", "centralised"]
ARMS: tuple[Arm, ...] = get_args(Arm)
Scope = Literal["own", "everyone"]
TITLES: dict[Scope, str] = {"own": "own", "everyone": "global"}


@dataclass(frozen=True)
class Outcome:
    """What one participant reached in one run.

    Attributes:
        arm: The kind of training.
        seed: Of weights, split and batches.
        participant: Its name.
        metric: Name of its headline metric.
        own: On its own test set; NaN without one.
        everyone: On everyone's test set; NaN without one.
        higher_is_better: Whether a larger figure is the better one; False for errors.
    """

    arm: Arm
    seed: int
    participant: str
    metric: str
    own: float
    everyone: float
    higher_is_better: bool = True


Select = Callable[[Sequence[float]], float]


def comparison_table(outcomes: Sequence[Outcome]) -> Table:
    """Mean and standard deviation over seeds, a row per participant, then their mean and the worst of them.

    A student, whom the federation alone has, stands below and counts in neither. The gain is federation minus local
    only, of the same seeds; for errors, where less is better, the other way round.
    """
    better = _sign(outcomes)
    arms = [arm for arm in ARMS if any(one.arm == arm for one in outcomes)]
    scopes: list[Scope] = [scope for scope in TITLES if any(not math.isnan(getattr(one, scope)) for one in outcomes)]
    with_gain = {"federation", "local_only"} <= set(arms)
    header = ["participant"]
    for scope in scopes:
        header += [f"{TITLES[scope]}: {arm}" for arm in arms] + ([f"{TITLES[scope]}: gain"] if with_gain else [])
    participants = _members(outcomes)
    groups: list[tuple[str, list[str], Select]] = [(name, [name], mean_of) for name in participants]
    if len(participants) > 1:
        groups += [("mean", participants, mean_of), ("worst", participants, worst_of if better > 0 else max)]
    if any(one.participant == STUDENT for one in outcomes):
        groups.append((STUDENT, [STUDENT], mean_of))
    rows = []
    for title, names, select in groups:
        row = [title]
        for scope in scopes:
            series = {arm: by_seed(outcomes, arm, scope, names, select) for arm in arms}
            row += [spread(list(values.values())) for values in series.values()]
            if with_gain:
                gains = [better * gain for gain in _paired(series["federation"], series["local_only"])]
                row.append(spread(gains, signed=True))
        rows.append(row)
    return Table(header, rows)


def verdicts(outcomes: Sequence[Outcome]) -> list[str]:
    """The gain over local only with its paired spread, and the share of participants that were harmed."""
    lines = []
    names = _members(outcomes)
    metrics = ", ".join(dict.fromkeys(one.metric for one in outcomes))
    for scope, title in TITLES.items():
        both = [by_seed(outcomes, arm, scope, names, mean_of) for arm in ("federation", "local_only")]
        gains = _paired(*both)
        if not gains:
            continue
        harmed = harmed_share(outcomes, scope)
        lines.append(
            f"{title} {metrics}: federation - local_only = {spread(gains, signed=True)} "
            f"(mean over participants, {len(gains)} seed(s)); {harmed:.0%} of participants harmed"
        )
    return lines


def harmed_share(outcomes: Iterable[Outcome], scope: Scope) -> float:
    """Share of (participant, seed) pairs whose federation figure is worse than their local one; NaN without pairs."""
    found = {
        (one.arm, one.seed, one.participant): getattr(one, scope) * (1 if one.higher_is_better else -1)
        for one in outcomes
    }
    gains = [
        value - found["local_only", seed, name]
        for (arm, seed, name), value in found.items()
        if arm == "federation" and ("local_only", seed, name) in found
    ]
    return mean_of([float(gain < 0) for gain in gains if not math.isnan(gain)])


def by_seed(
    outcomes: Iterable[Outcome], arm: Arm, scope: Scope, names: Sequence[str], select: Select
) -> dict[int, float]:
    """One figure per seed of an arm: ``select`` over the participants."""
    values: dict[int, list[float]] = {}
    for one in outcomes:
        if one.arm == arm and one.participant in names and not math.isnan(getattr(one, scope)):
            values.setdefault(one.seed, []).append(getattr(one, scope))
    return {seed: select(found) for seed, found in values.items()}


def spread(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean and sample standard deviation; the mean alone of a single value."""
    if not values:
        return "-"
    text = f"{statistics.fmean(values):+.3f}" if signed else figure(statistics.fmean(values))
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.3f}"


def write_comparison(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write ``outcomes.csv``, a row per run and participant, and ``table.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "outcomes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Outcome)])
        writer.writeheader()
        writer.writerows(asdict(one) for one in outcomes)
    text = "\n".join([comparison_table(outcomes).markdown(), "", *verdicts(outcomes), ""])
    (folder / "table.md").write_text(text, encoding="utf-8")


def mean_of(values: Iterable[float]) -> float:
    """Mean, NaN of nothing."""
    found = [value for value in values if not math.isnan(value)]
    return statistics.fmean(found) if found else math.nan


def worst_of(values: Sequence[float]) -> float:
    """The smallest."""
    return min(values)


def _members(outcomes: Iterable[Outcome]) -> list[str]:
    return list(dict.fromkeys(one.participant for one in outcomes if one.participant != STUDENT))


def _sign(outcomes: Iterable[Outcome]) -> int:
    return 1 if all(one.higher_is_better for one in outcomes) else -1


def _paired(first: dict[int, float], second: dict[int, float]) -> list[float]:
    return [first[seed] - second[seed] for seed in first if seed in second]
