"""``hetfed benchmark``, and the same from Python."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from hetfed_lightning.checkpointing.atomic import write_atomically
from hetfed_lightning.cli.benchmark.page import benchmark_page
from hetfed_lightning.cli.benchmark.results import Result
from hetfed_lightning.cli.benchmark.schedule import run_suite
from hetfed_lightning.cli.benchmark.suite import Suite, read_suite, suite_of
from hetfed_lightning.cli.benchmark.tables import markdown, write_figures

log = logging.getLogger(__name__)


def run_benchmark(suite: str | Path | Mapping[str, Any], *, output: str | None = None, jobs: int = 1) -> list[Result]:
    """Results of a benchmark's cells; their tables are written. Arguments as in :func:`hetfed_lightning.benchmark`."""
    found = suite_of(suite) if isinstance(suite, Mapping) else read_suite(str(suite))
    if output is not None:
        found = Suite(**vars(found) | {"output": output})
    results = run_suite(found, jobs)
    folder = Path(found.output)
    write_figures(results, folder / "figures.csv")
    write_atomically(folder / "table.md", markdown(results, found))
    write_atomically(folder / "page.html", benchmark_page(results, found))
    return results


def benchmark_command(arguments: Sequence[str]) -> None:
    """``hetfed benchmark -c suite.yaml``: methods by data sets by seeds; a stopped one goes on where it was.

    Raises:
        ConfigError: If suite or configurations cannot be used.
    """
    parser = ArgumentParser(prog="hetfed benchmark", description=benchmark_command.__doc__, exit_on_error=False)
    parser.add_argument("-c", "--suite", type=str, required=True, help="The suite, a YAML file (docs/benchmark.md).")
    parser.add_argument("--output", type=str | None, default=None, help="Folder of cells and tables.")
    parser.add_argument("--jobs", type=PositiveInt, default=1, help="Cells side by side, each in its own process.")
    options = parser.parse_args(list(arguments))
    run_benchmark(options.suite, output=options.output, jobs=options.jobs)
    suite = read_suite(options.suite)
    folder = Path(options.output or suite.output)
    log.info("\n%s\nTables: %s", (folder / "table.md").read_text(encoding="utf-8"), folder)
