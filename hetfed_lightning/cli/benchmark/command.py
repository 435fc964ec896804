"""``hetfed benchmark``, and the same from Python."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from hetfed_lightning.checkpointing.atomic import write_atomically
from hetfed_lightning.cli.benchmark.page import benchmark_page
from hetfed_lightning.cli.benchmark.results import Result
from hetfed_lightning.cli.benchmark.schedule import check_suite, run_cells, run_suite
from hetfed_lightning.cli.benchmark.suite import read_suite, suite_of, with_trials
from hetfed_lightning.cli.benchmark.tables import markdown, write_figures
from hetfed_lightning.cli.benchmark.tuning import TRIALS, tuned, write_trials
from hetfed_lightning.cli.help_text import help_text

log = logging.getLogger(__name__)


def run_benchmark(
    suite: str | Path | Mapping[str, Any], *, output: str | None = None, jobs: int = 1, tune: int | None = None
) -> list[Result]:
    """Results of a benchmark's cells; their tables are written. Arguments as in :func:`hetfed_lightning.benchmark`."""
    read = suite_of(suite) if isinstance(suite, Mapping) else read_suite(str(suite))
    if output is not None:
        read = replace(read, output=output)
    if tune is not None:
        read = with_trials(read, tune)
    check_suite(read)
    found, searches = tuned(read, partial(run_cells, jobs=jobs, hashes={}))
    results = run_suite(found, jobs)
    folder = Path(found.output)
    write_figures(results, folder / "figures.csv")
    if searches:
        write_trials(searches, folder / TRIALS)
    write_atomically(folder / "table.md", markdown(results, found, searches))
    write_atomically(folder / "page.html", benchmark_page(results, found, searches))
    return results


def benchmark_command(arguments: Sequence[str]) -> None:
    """``hetfed benchmark -c suite.yaml``: methods by data sets by seeds; a stopped one goes on where it was.

    Raises:
        ConfigError: If suite or configurations cannot be used.
    """
    parser = ArgumentParser(prog="hetfed benchmark", description=help_text(benchmark_command), exit_on_error=False)
    parser.add_argument("-c", "--suite", type=str, required=True, help="The suite, a YAML file (docs/benchmark.md).")
    parser.add_argument("--output", type=str | None, default=None, help="Folder of cells and tables.")
    parser.add_argument("--jobs", type=PositiveInt, default=1, help="Cells side by side, each in its own process.")
    tune = "Trials of every row on every data set, on seeds of their own (Optuna); the suite's `tune: {trials: N}`."
    parser.add_argument("--tune", type=PositiveInt | None, default=None, help=tune)
    options = parser.parse_args(list(arguments))
    run_benchmark(options.suite, output=options.output, jobs=options.jobs, tune=options.tune)
    suite = read_suite(options.suite)
    folder = Path(options.output or suite.output)
    log.info("\n%s\nTables: %s", (folder / "table.md").read_text(encoding="utf-8"), folder)
