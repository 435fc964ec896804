"""Dispatch of commands, and their errors: a sentence and exit code 2 before training, a traceback after its begin.

What a command runs is imported when it is called, so that those which need no torch answer at once.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from hetfed_lightning.cli.commands import COMMANDS
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.installed import installed_commands, load_command
from hetfed_lightning.cli.overview import overview
from hetfed_lightning.paths import arguments_with_home
from hetfed_lightning.version import __version__

BAD_INPUT = 2
DEBUG = "HETFED_DEBUG"
NOISE = ("Tip:", "already configured with model summary callbacks")
"""Messages of Lightning at every start that a user can do nothing about."""


def run(arguments: Sequence[str]) -> int:
    """Exit code of one command, which is run here.

    Args:
        arguments: Command line without the program's name.

    Returns:
        0; 2 for input that cannot be used; 1 if too few participants were left to go on; an installed command's own
        code. Other errors after training began are raised as they are, and all of them if the environment sets
        ``HETFED_DEBUG``.
    """
    _speak()
    command, *rest = arguments_with_home(arguments) or ["--help"]
    if command == "--version":
        sys.stdout.write(f"hetfed {__version__}\n")
        return 0
    if command in {"-h", "--help"}:
        sys.stdout.write(overview())
        return 0
    if not command.startswith("-") and command not in COMMANDS:
        installed = installed_commands()
        if command not in installed:
            return _refuse(_unknown(command, (*COMMANDS, *installed)))
    try:
        if command in COMMANDS and not COMMANDS[command].needs_torch:
            COMMANDS[command].load()(rest)
            return 0
        return _run_heavy(command, rest)
    except ConfigError as error:
        return _refuse(str(error))


def _run_heavy(command: str, rest: list[str]) -> int:
    """Exit code of a command that may train."""
    from hetfed_lightning.cli.failures import failures_in_words

    with failures_in_words(debug=bool(os.environ.get(DEBUG))) as failed:
        return _execute(command, rest)
    return _refuse(failed.message, failed.code)


def _execute(command: str, rest: list[str]) -> int:
    if command in COMMANDS and COMMANDS[command].place:
        COMMANDS[command].load()(rest)
    elif command.startswith("-") or command in COMMANDS:
        from hetfed_lightning.cli.command import FederatedCLI

        FederatedCLI([command, *rest], environment=os.environ)
    else:
        return load_command(installed_commands()[command])(rest) or 0
    return 0


def _unknown(command: str, known: Sequence[str]) -> str:
    from hetfed_lightning.data.name_checks import did_you_mean

    return f"no command {command!r}{did_you_mean(command, known)}."


def _refuse(message: str, code: int = BAD_INPUT) -> int:
    sys.stderr.write(f"hetfed: error: {message}\n")
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
