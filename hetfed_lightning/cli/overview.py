"""``hetfed --help``: every command in a sentence, without importing what they run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from hetfed_lightning.cli.commands import COMMANDS, INSTALLED
from hetfed_lightning.cli.installed import described, installed_commands

WIDTH = 100
"""Columns of the page."""

_USAGE = """usage: hetfed COMMAND [options]
       hetfed COMMAND --help     the options of one command
       hetfed --version
"""
_BEGIN = """
Heterogeneous federated learning on PyTorch Lightning: every participant keeps its own architecture, optimizer and data.
`hetfed fit -c hetfed:digits` trains a federation of the package's examples, `hetfed fit -c FILE.yaml` your own.

commands:
"""
_END = """
A configuration may name classes of this package, torch.nn, torch.optim, torchmetrics and Lightning; `--allow_import
my_package` adds your own, which is looked for in the current folder and beside the configuration too.
"""


def overview(prog: str = "hetfed", added: Mapping[str, str] = MappingProxyType({})) -> str:
    """Text of ``hetfed --help``. Commands of other packages are imported for their descriptions.

    Args:
        prog: Name of the program.
        added: Sentences on commands of its own, by name.
    """
    others = {name: INSTALLED.get(name) or described(entry) for name, entry in installed_commands().items()}
    rows = [*((name, one.sentence) for name, one in COMMANDS.items()), *added.items(), *others.items()]
    begin = _USAGE.replace("hetfed", prog) + _BEGIN
    return begin + "".join(_lines(rows)) + _END


def _lines(rows: Iterable[tuple[str, str]]) -> Iterable[str]:
    rows = list(rows)
    wide = max(len(name) for name, _ in rows) + 4
    for name, sentence in rows:
        yield (
            textwrap.fill(sentence, WIDTH, initial_indent=f"  {name}".ljust(wide), subsequent_indent=" " * wide) + "\n"
        )
