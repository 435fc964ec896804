"""``hetfed report``: one page of runs' results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from hetfed_lightning import plots
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.help_text import help_text
from hetfed_lightning.cli.report import page, read_subject
from hetfed_lightning.logs.run_record import RecordError

log = logging.getLogger(__name__)


def report_command(arguments: Sequence[str]) -> None:
    """``hetfed report RUN... -o report.html``: RUN is a log folder of `hetfed fit` or the --output of `hetfed compare`.

    Raises:
        ConfigError: If a folder holds no record or a damaged one, or matplotlib is missing.
    """
    parser = ArgumentParser(prog="hetfed report", description=help_text(report_command), exit_on_error=False)
    parser.add_argument("runs", nargs="+", help="Folders, shown in this order.")
    parser.add_argument("-o", "--output", default="report.html", help="File to write.")
    parser.add_argument("--title", default="Federation report", help="Heading of the page.")
    options = parser.parse_args(list(arguments))
    if not plots.available():
        raise ConfigError("hetfed report needs matplotlib: pip install 'hetfed-lightning[plots]'.")
    try:
        content = page([read_subject(run) for run in options.runs], title=options.title)
    except RecordError as error:
        raise ConfigError(str(error)) from error
    path = Path(options.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    log.info("Report: %s", path)
