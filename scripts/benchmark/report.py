"""Rows of the table: what was measured, in the units that people read."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from scripts.benchmark.hardware import flops_of_round
from scripts.benchmark.rounds import Record
from scripts.benchmark.workloads import Workload

NOTHING = "-"


@dataclass(frozen=True)
class Row:
    """One program on one workload. A row without seconds says in ``note`` why there are none.

    Attributes:
        workload: Its name.
        size: Participants x examples each, batch.
        program: ``hetfed``, ``plain``, or a peer.
        workers: Processes that trained.
        rounds: Timed.
        seconds: Median of a round, with its quartiles.
        samples: Examples trained on per second, by the median.
        ratio: Seconds of a round through those of the plain loop's round beside it: median of the pairs, quartiles.
        peak: Share of the FLOP/s of a large matrix product.
        memory: Megabytes that training added, without data; on a GPU, with the data that went there.
        started: Seconds from the call to the first batch.
        accuracy: On the test set in the end.
        plain_accuracy: The plain loop's beside it.
        difference: Largest difference between its weights and the plain loop's.
        note: What else must be said.
    """

    workload: str
    size: str
    program: str
    workers: int = 1
    rounds: int = 0
    seconds_q1: float | None = None
    seconds: float | None = None
    seconds_q3: float | None = None
    samples: float | None = None
    ratio_q1: float | None = None
    ratio: float | None = None
    ratio_q3: float | None = None
    peak: float | None = None
    memory: float | None = None
    started: float | None = None
    accuracy: float | None = None
    plain_accuracy: float | None = None
    difference: float | None = None
    note: str = ""


def size_of(workload: Workload) -> str:
    """Participants x examples each, in batches."""
    return f"{workload.participants} x {workload.examples}, {workload.batch_size}"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile; of one value, three times that."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def row_of(workload: Workload, program: str, record: Record, peak: float | None, *, note: str = "") -> Row:
    """A program's row.

    Args:
        workload: What it trained.
        program: Its name.
        record: What was measured; rounds of the plain loop are beside its own.
        peak: FLOP/s of a large matrix product.
        note: What else must be said.
    """
    low, middle, high = quartiles(record.seconds)
    ratios = [own / plain for own, plain in zip(record.seconds, record.plain, strict=True)]
    beside = quartiles(ratios)
    return Row(
        workload.name, size_of(workload), program, record.workers, len(record.seconds),
        low, middle, high,
        workload.participants * workload.examples / middle,
        *beside,
        None if peak is None else flops_of_round(workload) / middle / peak,
        record.memory, record.started, record.accuracy, record.plain_accuracy, record.difference, note,
    )  # fmt: skip


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """All rows with all figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _rounded(value) for key, value in asdict(row).items()} for row in rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of such a file, as text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(rows: Sequence[Row]) -> str:
    """The rows as text, in columns."""
    titles = (
        "workload", "participants x examples, batch", "program", "s/round (quartiles)", "samples/s",
        "time / plain (quartiles)", "of peak", "MB", "start s", "accuracy (plain)", "difference",
    )  # fmt: skip
    lines = [titles, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    notes = [f"{row.workload}, {row.program}: {row.note}" for row in rows if row.note]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:], *notes])


def _cells(row: Row) -> tuple[str, ...]:
    program = row.program if row.workers == 1 else f"{row.program} ({row.workers} processes)"
    if row.seconds is None:
        return (row.workload, row.size, program, "not measured", *[NOTHING] * 7)
    ratio = f"{row.ratio:.3f} ({row.ratio_q1:.3f}-{row.ratio_q3:.3f})"
    if row.ratio is not None and row.ratio < 1:
        ratio += f" {1 / row.ratio:.1f}x faster"
    accuracy = f"{_figure(row.accuracy, '.4f')} ({_figure(row.plain_accuracy, '.4f')})"
    return (
        row.workload, row.size, program,
        f"{row.seconds:.4f} ({row.seconds_q1:.4f}-{row.seconds_q3:.4f})",
        _figure(row.samples, ",.0f"), NOTHING if row.program == "plain" else ratio, _figure(row.peak, ".1%"),
        _figure(row.memory, ".0f"), _figure(row.started, ".2f"), accuracy, _figure(row.difference, ".1e"),
    )  # fmt: skip


def _figure(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def _rounded(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
