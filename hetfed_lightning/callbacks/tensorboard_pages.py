"""Pages for TensorBoard made of names, tags and roles: tables, and the charts of "Custom Scalars"."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hetfed_lightning.callbacks.participant_summary import Role
from hetfed_lightning.logs.metric_store import tag
from hetfed_lightning.logs.text import readable_bytes

Layout = dict[str, dict[str, list[Any]]]
"""Charts by category and title, each ``["Multiline", [tag, ...]]``, as ``add_custom_scalars`` takes them."""

MAX_PARTICIPANTS = 200
"""Largest number of participants in a table, a chart and the picture of labels; the first ones are taken."""

_SUMMARY = re.compile(r"federation/(?P<stage>[a-z]+)_(?:global_)?(?P<headline>.+)_(?P<figure>mean|worst|std|jain)")


def chart_layout(tags: Iterable[str], names: Sequence[str]) -> Layout:
    """Charts of the page "Custom Scalars": one per metric with a line per participant, then the federation's own.

    Args:
        tags: Logged tags; one participant's tag is enough for a metric's chart, since others may join later.
        names: Names of the participants, and of the student if there is one.
    """
    tags, known, names = set(tags), set(names), names[:MAX_PARTICIPANTS]
    metrics = {key.rpartition("/")[0] for key in tags if key.rpartition("/")[2] in known} - {"", "federation"}
    # Order of interest: validation first, own before global, the metric before the loss; learning rates last.
    order = sorted(
        metrics,
        key=lambda metric: (not metric.startswith("val_"), metric.startswith("lr"), "loss" in metric, metric),
    )
    of_participants = {metric: [tag(metric, name) for name in names] for metric in order}
    of_all: dict[str, list[str]] = defaultdict(list)
    shared = [key for key in tags if key.startswith("federation/") and not key.startswith("federation/test_")]
    for key in sorted(shared, key=_chart_order):
        of_all[_chart_of(key)].append(key)
    return {
        category: {title: ["Multiline", [_pattern(key, lines) for key in lines]] for title, lines in charts.items()}
        for category, charts in (("participants", of_participants), ("federation", of_all))
        if charts
    }


def _chart_order(key: str) -> tuple[Any, ...]:
    """Validation first, mean before worst, then the rest by name."""
    match = _SUMMARY.fullmatch(key)
    figures_first = ("mean", "worst", "std", "jain")
    return (0, match["headline"], figures_first.index(match["figure"]), key) if match else (1, key)


def _chart_of(key: str) -> str:
    """Title of the chart that a tag of the federation belongs to."""
    match = _SUMMARY.fullmatch(key)
    if match:
        figure = "mean and worst" if match["figure"] in {"mean", "worst"} else match["figure"]
        return f"{match['stage']}_{match['headline']}: {figure}"
    name = key.removeprefix("federation/")
    together = {"bytes_up": "bytes per round", "bytes_down": "bytes per round", "quarantined": "participants"}
    return together.get(name, name)


def _pattern(key: str, lines: Sequence[str]) -> str:
    """TensorBoard reads a line's tag as the beginning of a regular expression: ``site_1`` would find ``site_10``."""
    ends = any(other != key and other.startswith(key) for other in lines)
    return re.escape(key) + ("$" if ends else "")


def configuration_page(config: str) -> str:
    """Configuration of the run as Markdown with YAML in a code block."""
    return f"```yaml\n{config.strip()}\n```"


def sharing_page(reports: Iterable[str]) -> str:
    """Sharing reports as a Markdown list, whose lines TensorBoard wraps.

    Args:
        reports: One report for each averaging callback, from
            :func:`~hetfed_lightning.methods.averaging.sharing_groups.sharing_report`.
    """
    return "\n\n".join(report.replace("\n  ", "\n\n* ") for report in reports)


def participants_table(roles: Iterable[Role], total: int) -> str:
    """Markdown table of the participants and their roles.

    Args:
        roles: Roles of the first :data:`MAX_PARTICIPANTS` participants.
        total: Number of all participants.
    """
    rows = [
        [
            one.name.replace("_", r"\_"),
            one.architecture,
            one.optimizer,
            f"{one.weights:,}",
            readable_bytes(one.shared_bytes),
            *(["-"] * 3 if one.is_student else [f"{one.examples:,}", str(one.local_epochs), str(one.joins_at)]),
        ]
        for one in roles
    ]
    # Short, and names without the narrow type of code: TensorBoard makes the columns equally wide.
    head = "name", "architecture", "optimizer", "weights", "shared", "examples", "epochs", "joins"
    return _markdown(head, rows) + _and_more(total)


def _and_more(count: int) -> str:
    return f"\n\nand {count - MAX_PARTICIPANTS:,} more" if count > MAX_PARTICIPANTS else ""


def results_table(values: Mapping[str, float], names: Sequence[str]) -> str:
    """Test results, a Markdown table with a row per participant and a column per metric.

    Args:
        values: Results by tag.
        names: The participants, and the student if there is one, in order.
    """
    known = set(names)
    owned = (key.rpartition("/") for key in values if not key.startswith("federation/"))
    metrics = list(dict.fromkeys(metric for metric, _, owner in owned if owner in known))
    rows = [
        [f"`{name}`", *(_cell(values.get(tag(metric, name), math.nan)) for metric in metrics)]
        for name in names[:MAX_PARTICIPANTS]
    ]
    return _markdown(["participant", *metrics], rows) + _and_more(len(names))


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
