"""Results of a comparison: its table, the differences that count, and its files."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.tables import Table, figure
from hetfed_lightning.intervals import Interval, mean_interval
from hetfed_lightning.participants.student_name import STUDENT

Arm = Literal["federation", "local_only", "centralised"]
ARMS: tuple[Arm, ...] = get_args(Arm)
Scope = Literal["own", "everyone"]
TITLES: dict[Scope, str] = {"own": "own", "everyone": "global"}


@dataclass(frozen=True)
class Outcome:
    """Figure of one participant in one run, by one metric.

    Attributes:
        arm: The kind of training.
        seed: Seed of weights, split and batches.
        participant: Name of the participant.
        metric: Name of the metric.
        own: Value on its own test set; NaN without one.
        everyone: Value on the global test set; NaN without one.
        higher_is_better: True if larger values are better, False for errors.
        headline: True if it is the participant's headline metric.
    """

    arm: Arm
    seed: int
    participant: str
    metric: str
    own: float
    everyone: float
    higher_is_better: bool = True
    headline: bool = True


Select = Callable[[Sequence[float]], float]


def of_metric(outcomes: Sequence[Outcome], metric: str | None) -> list[Outcome]:
    """Outcomes of one metric.

    Args:
        outcomes: Outcomes of any metrics.
        metric: Name of the metric; None for each participant's headline metric.

    Raises:
        ConfigError: If there are outcomes and none of that metric.
    """
    found = [one for one in outcomes if (one.headline if metric is None else one.metric == metric)]
    if outcomes and not found:
        from hetfed_lightning.data.name_checks import did_you_mean  # Its package imports torch.

        known = list(dict.fromkeys(one.metric for one in outcomes))
        raise ConfigError(f"--metrics: nobody was tested by {metric!r}{did_you_mean(str(metric), known)}.")
    return found


def comparison_table(outcomes: Sequence[Outcome]) -> Table:
    """Table of means and standard deviations over seeds: a row per participant, then their mean and the worst of them.

    The student, which only the federation has, stands below and counts in neither. The gain is federation minus local
    only, on equal seeds; for errors, where less is better, the other way round.

    Args:
        outcomes: Outcomes of one metric, as :func:`of_metric` returns them.
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
    """Sentences with the gain over local only, its paired spread and interval, and the share of participants harmed.

    Args:
        outcomes: Outcomes of one metric, as :func:`of_metric` returns them.
    """
    lines = []
    better = _sign(outcomes)
    difference = "federation - local_only" if better > 0 else "local_only - federation"
    names = _members(outcomes)
    metrics = ", ".join(dict.fromkeys(one.metric for one in outcomes))
    for scope, title in TITLES.items():
        gains = paired_gains(outcomes, scope, names)
        if not gains:
            continue
        harmed = harmed_share(outcomes, scope)
        lines.append(
            f"{title} {metrics}: {difference} = {spread(gains, signed=True)} "
            f"(mean over participants, {len(gains)} seed(s){_ends(mean_interval(gains))}); "
            f"{harmed:.0%} of participants harmed"
        )
    return lines


def paired_gains(outcomes: Sequence[Outcome], scope: Scope, names: Sequence[str]) -> list[float]:
    """Gain of the federation over local only in each seed, averaged over participants; positive is better.

    Args:
        outcomes: Outcomes of one metric.
        scope: ``"own"`` or ``"everyone"``: the test set.
        names: Participants to average over.
    """
    both = [by_seed(outcomes, arm, scope, names, mean_of) for arm in ("federation", "local_only")]
    return [_sign(outcomes) * gain for gain in _paired(*both)]


def _ends(interval: Interval) -> str:
    return f", 95 % interval {interval.low:+.3f} to {interval.high:+.3f}" if interval.known else ""


def harmed_share(outcomes: Iterable[Outcome], scope: Scope) -> float:
    """Fraction of (participant, seed) pairs whose federation figure is worse than their local one; NaN without pairs.

    Args:
        outcomes: Outcomes of one metric.
        scope: ``"own"`` or ``"everyone"``: the test set.
    """
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
    """Figure of an arm by seed: ``select`` applied to the participants' values.

    Args:
        outcomes: Outcomes of one metric.
        arm: The kind of training.
        scope: ``"own"`` or ``"everyone"``: the test set.
        names: Participants that count.
        select: Function of their values, such as :func:`mean_of`.
    """
    values: dict[int, list[float]] = {}
    for one in outcomes:
        if one.arm == arm and one.participant in names and not math.isnan(getattr(one, scope)):
            values.setdefault(one.seed, []).append(getattr(one, scope))
    return {seed: select(found) for seed, found in values.items()}


def spread(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean ± sample standard deviation as text; the mean alone for a single value, a dash for none.

    Args:
        values: Values, one per seed.
        signed: True to show the sign of a positive mean.
    """
    if not values:
        return "-"
    mean = sum(values) / len(values) if any(map(math.isinf, values)) else statistics.fmean(values)
    text = f"{mean:+.3f}" if signed else figure(mean)
    if len(values) == 1:
        return text
    return f"{text} ± {statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan:.3f}"


def summary(
    outcomes: Sequence[Outcome], metrics: Sequence[str] | None = None, *, form: Callable[[Table], str] = Table.markdown
) -> str:
    """Text of table and verdicts, for the headline metric or for each of several.

    Args:
        outcomes: Outcomes of all metrics.
        metrics: Names of metrics, each shown above its table; None for the headline alone, without its name.
        form: Function from a table to text.
    """
    parts = []
    for metric in metrics or (None,):
        found = of_metric(outcomes, metric)
        parts += [metric] if metric else []
        parts += [form(comparison_table(found)), "\n".join(verdicts(found))]
    return "\n\n".join(parts)


def write_comparison(outcomes: Sequence[Outcome], folder: Path, metrics: Sequence[str] | None = None) -> None:
    """Write ``outcomes.csv``, a row per run, participant and metric, and ``table.md``, the text of :func:`summary`.

    Args:
        outcomes: Outcomes of all metrics.
        folder: Folder to write; made if missing.
        metrics: Metrics of the tables; None for the headline alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "outcomes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Outcome)])
        writer.writeheader()
        writer.writerows(asdict(one) for one in outcomes)
    (folder / "table.md").write_text(summary(outcomes, metrics) + "\n", encoding="utf-8")


def mean_of(values: Iterable[float]) -> float:
    """Mean of all values that are not NaN; NaN if there is none."""
    found = [value for value in values if not math.isnan(value)]
    return statistics.fmean(found) if found else math.nan


def worst_of(values: Sequence[float]) -> float:
    """Smallest value."""
    return min(values)


def _members(outcomes: Iterable[Outcome]) -> list[str]:
    return list(dict.fromkeys(one.participant for one in outcomes if one.participant != STUDENT))


def _sign(outcomes: Iterable[Outcome]) -> int:
    return 1 if all(one.higher_is_better for one in outcomes) else -1


def _paired(first: dict[int, float], second: dict[int, float]) -> list[float]:
    return [first[seed] - second[seed] for seed in first if seed in second]
