"""Cells of a suite, run where they are missing: one after another, or several side by side."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import yaml

from hetfed_lightning.checkpointing.atomic import write_atomically
from hetfed_lightning.cli.benchmark.cell import ARMS, CONFIG, errors_alone, hash_of_data, run_cell
from hetfed_lightning.cli.benchmark.fingerprint import fingerprint
from hetfed_lightning.cli.benchmark.results import Result, folder_of
from hetfed_lightning.cli.benchmark.suite import LINEAR, MAJORITY, Cell, Suite, base_config, cells_of, config_of
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.strict_yaml import parser_text

log = logging.getLogger(__name__)

CELL = "cell.yaml"

Hashes = dict[tuple[str, int], str]
"""Hashes of loaded and divided data, by title of the data set and seed."""


def check_suite(suite: Suite) -> None:
    """Refuse a mistaken name before the first training.

    Raises:
        ConfigError: If a configuration cannot be used, or a method is unknown.
    """
    for cell in cells_of(replace(suite, seeds=suite.seeds[:1])):
        config_of(suite, cell)


def run_suite(suite: Suite, jobs: int = 1) -> list[Result]:
    """Results of all cells; those that have one already, made by the same version on equal data, are not run again.

    Args:
        suite: What to compare.
        jobs: Number of cells side by side, each in a process of its own.

    Raises:
        ConfigError: If a configuration cannot be used, or there are no jobs.
    """
    cells = cells_of(suite)
    found = run_cells(suite, cells, jobs)
    return [found[cell] for cell in cells]


def run_cells(suite: Suite, cells: Sequence[Cell], jobs: int = 1, hashes: Hashes | None = None) -> dict[Cell, Result]:
    """Results of cells of a suite; those that have one already are not run again.

    Args:
        suite: The suite.
        cells: Cells of it.
        jobs: Number of cells side by side, each in a process of its own.
        hashes: Hashes of data that are known, by title of the data set and seed; others are added.

    Raises:
        ConfigError: If a configuration cannot be used, or there are no jobs.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs: expected at least 1, got {jobs}.")
    folders = dict(zip(cells, _prepared(suite, cells, {} if hashes is None else hashes), strict=True))
    found = {cell: result for cell, folder in folders.items() if (result := Result.read(folder)) is not None}
    missing = [cell for cell in cells if cell not in found or found[cell].refused]
    log.info("%d cells, %d of them known, %d to run.", len(cells), len(cells) - len(missing), len(missing))
    began = perf_counter()
    for done, (cell, result) in enumerate(_run(missing, folders, jobs), start=1):
        found[cell] = result
        rest = (perf_counter() - began) / done * (len(missing) - done)
        says = f"no result: {result.refused}" if result.refused else f"{result.seconds:.1f} s"
        log.info("%d/%d  %s: %s; %s left", done, len(missing), cell, says, duration(rest))
    return found


def duration(seconds: float) -> str:
    """A time as text, such as ``"1 h 05 min"`` or ``"12 s"``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _prepared(suite: Suite, cells: Sequence[Cell], hashes: Hashes) -> Iterator[Path]:
    """Folders of cells, with the configuration and the title of each."""
    output = Path(suite.output)
    for cell in cells:
        pair = (cell.data, cell.seed)
        if pair not in hashes:
            hashes[pair] = _hashed(suite, cell)
        config, row = config_of(suite, cell), suite.methods[cell.method].method
        arm = ARMS.get(row, row if row in {LINEAR, MAJORITY} else "federation")
        print_ = fingerprint(config, arm, cell.seed, hashes[pair])
        folder = folder_of(output, cell, print_)
        if Result.read(folder) is None:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / CONFIG, parser_text(config))
            title = {"data": cell.data, "method": cell.method, "seed": cell.seed, "row": row}
            title |= {"fingerprint": print_, "data_hash": hashes[pair], "allow_import": list(suite.allow_import)}
            write_atomically(folder / CELL, yaml.safe_dump(title, sort_keys=False))
        yield folder


def _hashed(suite: Suite, cell: Cell) -> str:
    with TemporaryDirectory() as folder, errors_alone():
        path = Path(folder) / CONFIG
        path.write_text(parser_text(base_config(suite.data[cell.data])), encoding="utf-8")
        return hash_of_data(path, cell.seed, tuple(suite.allow_import))


def _run(cells: Sequence[Cell], folders: dict[Cell, Path], jobs: int) -> Iterator[tuple[Cell, Result]]:
    if jobs == 1:
        for cell in cells:
            yield cell, run_cell(folders[cell])
        return
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(_in_process, folders[cell]): cell for cell in cells}
        try:
            for one in as_completed(running):
                yield running[one], one.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _in_process(folder: Path) -> Result:
    command = [sys.executable, "-m", "hetfed_lightning.cli.benchmark.cell", str(folder)]
    paths = os.pathsep.join(one or "." for one in sys.path)
    ended = subprocess.run(  # noqa: S603  # our own module and a folder
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": paths}
    )
    (folder / "output.txt").write_text(ended.stdout + ended.stderr, encoding="utf-8")
    result = Result.read(folder)
    if ended.returncode == 0 and result is not None:
        return result
    last = (ended.stderr.strip() or "no message").splitlines()[-1]
    title = yaml.safe_load((folder / CELL).read_text(encoding="utf-8"))
    told = {key: title[key] for key in ("data", "method", "seed", "fingerprint")}
    failed = Result(**told, refused=f"its process ended with code {ended.returncode}: {last}")
    failed.write(folder)
    return failed
