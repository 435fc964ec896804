"""Small tables for the terminal and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of text under a header.

    Attributes:
        header: Names of the columns.
        rows: Rows with as many cells as the header.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Text for a terminal: first column flush left, the others flush right."""
        widths = [max(len(row[column]) for row in (self.header, *self.rows)) for column in range(len(self.header))]

        def line(cells: Sequence[str]) -> str:
            first, *others = (
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
            return "  ".join((first, *others)).rstrip()

        rule = "  ".join("-" * width for width in widths)
        return "\n".join((line(self.header), rule, *map(line, self.rows)))

    def markdown(self) -> str:
        """Markdown table."""
        rule = ["---", *(["---:"] * (len(self.header) - 1))]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (self.header, rule, *self.rows))


def figure(value: float, digits: int = 3) -> str:
    """A number for a table; a dash for NaN.

    Args:
        value: The number.
        digits: Digits after the point.
    """
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def participants_table(metrics: Mapping[str, float], names: Iterable[str], stage: str) -> Table:
    """Table of every figure of a stage, a row for each participant.

    Args:
        metrics: Values by tag, such as ``val_accuracy/hospital_a``.
        names: The participants, and the student if there is one.
        stage: ``"val"`` or ``"test"``.
    """
    bases = dict.fromkeys(
        key.split("/")[0] for key in metrics if key.startswith(f"{stage}_") and not key.startswith("federation")
    )
    # Own before global, losses last.
    columns = sorted(bases, key=lambda base: (base.partition(".")[0].endswith("loss"), "_global_" in base))
    rows = []
    for name in names:
        values = [float(metrics.get(f"{column}/{name}", math.nan)) for column in columns]
        if not all(math.isnan(value) for value in values):
            rows.append([name, *map(figure, values)])
    means = [
        [float(value) for key, value in metrics.items() if key.split("/")[0] == column and not key.endswith("/student")]
        for column in columns
    ]
    if len(rows) > 1:
        # Mean of known figures: an area under the curve is undefined if all examples are of one class.
        known = [[value for value in found if not math.isnan(value)] for found in means]
        rows.append(["mean", *(figure(sum(found) / len(found)) if found else "-" for found in known)])
    return Table(["participant", *(_title(column, stage) for column in columns)], rows)


def _title(base: str, stage: str) -> str:
    name = base.removeprefix(f"{stage}_")
    everyone = name.startswith("global_")
    return f"{'global' if everyone else 'own'} {name.removeprefix('global_')}"
