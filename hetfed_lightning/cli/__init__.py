"""The command line, ``hetfed``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hetfed_lightning.cli.export import load_participant
from hetfed_lightning.cli.run import run

__all__ = ["load_participant", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``hetfed`` and exit with its code: 0, or 2 for input that cannot be used."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))
