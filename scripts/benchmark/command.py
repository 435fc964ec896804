"""What ``scripts/bench.py`` does with its options: which measurements, one after the other, and what it prints."""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from scripts.benchmark.hardware import describe
from scripts.benchmark.peers.environments import LEFT_OUT, PEERS, PeerError, interpreter
from scripts.benchmark.processes import MeasurementError, measure
from scripts.benchmark.report import Row, quartiles, read_csv, row_of, size_of, table, write_csv
from scripts.benchmark.rounds import SETTLED, Record
from scripts.benchmark.workloads import ON_A_GPU, SMALLEST, WORKLOADS, Workload, named

CROWD_ROUNDS = 3


def run(options: argparse.Namespace) -> None:
    """Measure what was asked for.

    Raises:
        ValueError: If an option's value cannot be used.
    """
    if options.from_csv:
        _draw(options.from_csv, _plot_of(options))
        return
    say(describe(options.device, options.threads))
    if options.config:
        configured(options)
    elif options.participants:
        crowds(options)
    elif options.soak:
        soak(options)
    else:
        workloads(options)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def job_of(kind: str, options: argparse.Namespace, rounds: int, warm: int = 1, **more: Any) -> dict[str, Any]:
    """A job for the worker."""
    how = {"rounds": options.rounds or rounds, "warm": warm, "device": options.device, "processes": options.processes}
    how |= {"engine": options.engine, "bare": options.bare}
    return {"kind": kind, "threads": options.threads, "how": how, **more}


def workloads(options: argparse.Namespace) -> None:
    """The table."""
    names = [SMALLEST.name] if options.quick else options.workloads or [n for n in WORKLOADS if n not in ON_A_GPU]
    chosen = [named(name) for name in names]
    peers = list(PEERS) if options.peers == [] else options.peers or []
    for peer in set(peers) - set(PEERS):
        raise ValueError(f"--peers: no peer {peer!r}; there are {', '.join(PEERS)}.")
    if peers and options.device != "cpu":
        raise ValueError("--peers: they are run on the CPU alone.")
    pythons = {peer: prepared(peer) for peer in peers}
    rows: list[Row] = []
    for workload in chosen:
        found = [*pair(workload, options), *(beside(workload, peer, pythons[peer], options) for peer in peers)]
        rows += found
        for row in found:
            say(f"{row.workload} {row.program}: {row.note or f'{row.seconds:.4f} s, {row.ratio:.3f} of plain'}")
        if options.csv:
            write_csv(rows, options.csv)
    say(f"\n{table(rows)}")
    for peer, reason in LEFT_OUT.items() if peers else ():
        say(f"{peer}: not measured, {reason}")
    if options.plot:
        csv = options.csv or options.plot.with_suffix(".csv")
        write_csv(rows, csv)
        _draw(csv, options.plot)


def pair(workload: Workload, options: argparse.Namespace) -> list[Row]:
    """Ours and the plain loop."""
    try:
        record = Record(**measure(job_of("pair", options, workload.rounds, workload=workload.name)))
        plain = Record(record.plain, record.plain, accuracy=record.plain_accuracy, plain_accuracy=record.plain_accuracy)
        if not options.no_memory:
            for one, kind in ((record, "memory"), (plain, "plain-memory")):
                job = job_of(kind, options, 2, 0, workload=workload.name)
                job["how"] |= {"rounds": 2, "processes": 1}
                one.memory = measure(job)["memory"]
    except MeasurementError as error:
        return [Row(workload.name, size_of(workload), "hetfed", note=str(error))]
    program = "hetfed" if options.engine is None else f"hetfed ({options.engine})"
    return [row_of(workload, program, record, record.peak), row_of(workload, "plain", plain, record.peak)]


def prepared(peer: str) -> str | PeerError:
    """The Python of a peer, or why there is none."""
    try:
        return str(interpreter(peer, say))
    except PeerError as error:
        return error


def beside(workload: Workload, peer: str, python: str | PeerError, options: argparse.Namespace) -> Row:
    """A peer, with the plain loop beside it in its own process; or why there is none."""
    if isinstance(python, PeerError):
        return Row(workload.name, size_of(workload), peer, note=str(python))
    try:
        module = f"scripts.benchmark.peers.{peer}"
        job = {"workload": workload.name, "threads": options.threads, "rounds": options.rounds or workload.rounds}
        record = Record(**measure(job | {"alone": False}, module, python))
        if not options.no_memory:
            record.memory = measure(job | {"alone": True, "rounds": 2}, module, python)["memory"]
    except MeasurementError as error:
        return Row(workload.name, size_of(workload), peer, note=str(error))
    return row_of(workload, peer, record, record.peak)


def configured(options: argparse.Namespace) -> None:
    """A configuration beside the plain loop."""
    path = str(Path(options.config).resolve())
    result = measure(job_of("config", options, 20, config=path))
    participants = result.pop("participants")
    record = Record(**result)
    low, middle, high = quartiles([own / plain for own, plain in zip(record.seconds, record.plain, strict=True)])
    say(f"{Path(path).name}: {participants} participants, {len(record.seconds)} rounds")
    say(f"federated round  {statistics.median(record.seconds):.3f} s (median)")
    say(f"plain loop       {statistics.median(record.plain):.3f} s (median)")
    say(f"ratio            {middle:.3f} (median of pairs), quartiles {low:.3f} to {high:.3f}")


def crowds(options: argparse.Namespace) -> None:
    """Round time and memory against the number of participants."""
    say("participants  active  s/round  start s  made MB  peak MB  parameters x N, MB")
    for count in options.participants:
        found = measure(job_of("crowd", options, CROWD_ROUNDS, participants=count))
        say(
            f"{count:12d}  {found['active']:6d}  {found['seconds']:7.3f}  {found['started']:7.2f}  "
            f"{found['made_mb']:7.0f}  {found['peak_mb']:7.0f}  {found['parameters_mb']:18.0f}"
        )


def soak(options: argparse.Namespace) -> None:
    """Growth of memory over rounds."""
    if options.soak < 2 * SETTLED:
        raise ValueError(f"--soak: expected at least {2 * SETTLED} rounds, of which half settle, got {options.soak}.")
    options.rounds = options.soak
    found = measure(job_of("soak", options, options.soak))
    held = found["megabytes"]
    shown = ", ".join(f"{index}: {held[index]:.1f}" for index in range(0, len(held), max(1, len(held) // 10)))
    say(f"megabytes held by round: {shown}")
    say(f"growth after round {SETTLED}: {found['growth']:+.2%} by round {len(held)}")


def _plot_of(options: argparse.Namespace) -> Path:
    if options.plot is None:
        raise ValueError("--from-csv: say where to draw, with --plot.")
    plot: Path = options.plot
    return plot


def _draw(csv: Path, picture: Path) -> None:
    from scripts.benchmark.picture import draw  # matplotlib takes seconds to load, and is an extra

    draw(read_csv(csv), picture)
