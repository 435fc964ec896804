"""Dispatch of commands, and their errors: a sentence and exit code 2 before training, a traceback after its begin.

What a command runs is imported when it is called, so that those which need no torch answer at once.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hetfed_lightning.cli.commands import COMMANDS
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.installed import installed_commands, load_command
from hetfed_lightning.cli.overview import overview
from hetfed_lightning.paths import arguments_with_home
from hetfed_lightning.version import __version__

if TYPE_CHECKING:
    from hetfed_lightning.cli.command import FederatedCLI

BAD_INPUT = 2
DEBUG = "HETFED_DEBUG"
NOISE = ("Tip:", "already configured with model summary callbacks")
"""Messages of Lightning at every start that a user can do nothing about."""


def run(arguments: Sequence[str], cli: type[FederatedCLI] | None = None) -> int:
    """Exit code of one command, which is run here.

    Args:
        arguments: Command line without the program's name.
        cli: Subclass of FederatedCLI in its place; its ``prog`` is the program's name in messages.

    Returns:
        0; 2 for input that cannot be used; 1 if too few participants were left to go on; an installed command's own
        code. Other errors after training began are raised as they are, and all of them if the environment sets
        ``HETFED_DEBUG``.
    """
    _speak()
    prog = cli.prog if cli else "hetfed"
    own = _own_commands(cli) if cli else {}
    command, *rest = arguments_with_home(arguments) or ["--help"]
    if command in {"--version", "-h", "--help"}:
        own_version = "" if prog == "hetfed" else f"{prog}, "
        sys.stdout.write(f"{own_version}hetfed {__version__}\n" if command == "--version" else overview(prog, own))
        return 0
    if not command.startswith("-") and command not in COMMANDS and command not in own:
        installed = installed_commands()
        if command not in installed:
            return _refuse(prog, _unknown(command, (*COMMANDS, *own, *installed)))
    fault = None
    if command in COMMANDS and not COMMANDS[command].needs_torch:
        try:
            COMMANDS[command].load()(rest)
        except ConfigError as error:
            return _refuse(prog, str(error))
        except Exception as error:  # noqa: BLE001  # raised again below, where it is known which are about the input
            fault = error
        else:
            return 0
    from hetfed_lightning.cli.failures import failures_in_words

    with failures_in_words(debug=bool(os.environ.get(DEBUG))) as failed:
        if fault is not None:
            raise fault
        return _execute(command, rest, cli)
    return _refuse(prog, failed.message, failed.code)


def _execute(command: str, rest: list[str], cli: type[FederatedCLI] | None) -> int:
    from hetfed_lightning.cli.command import FederatedCLI

    kind = cli or FederatedCLI
    if command.startswith("-") or command in kind.subcommands():
        kind([command, *rest], environment=os.environ)
    elif command in COMMANDS:
        COMMANDS[command].load()(rest)
    else:
        return load_command(installed_commands()[command])(rest) or 0
    return 0


def _unknown(command: str, known: Sequence[str]) -> str:
    from hetfed_lightning.data.name_checks import did_you_mean

    return f"no command {command!r}{did_you_mean(command, known)}."


def _own_commands(cli: type[FederatedCLI]) -> dict[str, str]:
    """First lines of the docstrings of the subcommands that a subclass adds, by name."""
    added = (name for name in cli.subcommands() if name not in COMMANDS)
    return {name: (inspect.getdoc(getattr(cli, name)) or "").partition("\n")[0] for name in added}


def _refuse(prog: str, message: str, code: int = BAD_INPUT) -> int:
    sys.stderr.write(f"{prog}: error: {message}\n")
    return code


def _speak() -> None:
    """Show the package's messages on standard output as plain lines, and hide noise."""
    package = logging.getLogger("hetfed_lightning")
    if not package.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        # Ranks log the same lines, errors apart.
        handler.addFilter(lambda record: _rank() == 0 or record.levelno >= logging.ERROR)
        package.addHandler(handler)
        package.setLevel(logging.INFO)
        package.propagate = False
    # Lightning 2.6 asks torch 2.13 in a way that torch deprecates; a user can do nothing about it.
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not any(noise in record.getMessage() for noise in NOISE)
    )


def _rank() -> Any:
    """Rank of this process as Lightning knows it; 0 as long as Lightning is not imported."""
    utilities = sys.modules.get("lightning.pytorch.utilities")
    return getattr(getattr(utilities, "rank_zero_only", None), "rank", 0)
