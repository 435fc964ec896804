"""The command line, ``hetfed``. Its names are imported when they are looked up."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hetfed_lightning._lazy import lazy_names

if TYPE_CHECKING:
    from hetfed_lightning.cli.command import FederatedCLI
    from hetfed_lightning.cli.export import load_participant

__all__ = ["FederatedCLI", "load_participant", "main"]


def main(arguments: Sequence[str] | None = None, cli: type[FederatedCLI] | None = None) -> None:
    """Run ``hetfed`` and exit with its code: 0, or 2 for input that cannot be used.

    Args:
        arguments: Command line without the program's name; that of the process by default.
        cli: Subclass that runs ``fit``, ``validate``, ``test``, ``predict`` and subcommands of its own.
    """
    from hetfed_lightning.cli.run import run

    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments), cli))


if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__, {"command": ("FederatedCLI",), "export": ("load_participant",)})
