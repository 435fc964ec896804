"""A benchmark from Python: the same as ``hetfed benchmark``, whose code is imported as it is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hetfed_lightning.cli.benchmark.results import Result


def benchmark(
    suite: str | Path | Mapping[str, Any], *, output: str | None = None, jobs: int = 1, tune: int | None = None
) -> list[Result]:
    """Results of methods by data sets by seeds, in order; cells that exist already are read, not run.

    Writes ``figures.csv``, ``table.md`` and ``page.html`` into the output folder, and each cell's configuration, record
    and result below ``cells/``.

    Args:
        suite: File of the suite, or its settings as a mapping: ``data``, ``methods``, ``seeds``, ``output``,
            ``threads``, ``references``, ``allow_import``, ``tune``.
        output: Folder of cells and tables; None for the suite's.
        jobs: Number of cells side by side, at least 1, each in a process of its own.
        tune: Trials of every row on every data set, at least 1, by which settings are chosen on seeds of their own
            (extra ``tune``); None for what the suite says.

    Raises:
        ConfigError: If suite or configurations cannot be used. A cell that fails says so in the tables.
    """
    from hetfed_lightning.cli.benchmark.command import run_benchmark

    return run_benchmark(suite, output=output, jobs=jobs, tune=tune)
