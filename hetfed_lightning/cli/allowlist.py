"""What a configuration may name: a YAML file that somebody else wrote must not run code of its choice.

Everything is denied but the packages below, and what ``--allow_import`` adds. The list is narrower than whole
packages where they hold functions that run files or commands (``torch.hub``, ``torch.utils.cpp_extension``,
``lightning.pytorch.cli.instantiate_class``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import set_parsing_settings

ALLOWED = (
    "hetfed_lightning",
    "lightning.fabric.plugins.precision",
    "lightning.pytorch.accelerators",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.cli.LRSchedulerCallable",
    "lightning.pytorch.cli.OptimizerCallable",
    "lightning.pytorch.cli.ReduceLROnPlateau",
    "lightning.pytorch.loggers",
    "lightning.pytorch.plugins",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "torch.nn",
    "torch.optim",
    "torchmetrics",
)
DENIED = ("*", "hetfed_lightning.cli")


def restrict_imports(extra: Sequence[str] = ()) -> None:
    """Allow a configuration to name these packages alone, in this process and from now on.

    Args:
        extra: Dotted paths of packages, modules or objects to allow as well, such as the user's own package; they
            may lie in the current folder.

    Raises:
        ValueError: If an entry is no dotted path, or would allow everything.
    """
    if extra and str(Path.cwd()) not in sys.path:  # As `python -m` does; a console script starts without it.
        sys.path.append(str(Path.cwd()))
    set_parsing_settings(import_path_denylist=list(DENIED), import_path_allowlist=[*ALLOWED, *extra])
