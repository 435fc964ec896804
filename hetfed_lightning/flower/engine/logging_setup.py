"""The package's messages as plain lines of a process whose output the engine passes on or a log keeps."""

from __future__ import annotations

import logging
import sys


def log_to_output(mark: str = "") -> None:
    """Show the package's messages on standard output, from now on and once.

    Args:
        mark: Text before each message.
    """
    package = logging.getLogger("hetfed_lightning")
    if not package.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter(f"{mark}%(message)s"))
        package.addHandler(handler)
        package.setLevel(logging.INFO)
        package.propagate = False
