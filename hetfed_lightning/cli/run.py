"""Dispatch of commands, and their errors: a sentence and exit code 2 before training, a traceback after its begin."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only

from hetfed_lightning.cli.benchmark.command import benchmark_command
from hetfed_lightning.cli.command import DESCRIPTION, FederatedCLI
from hetfed_lightning.cli.compare import CompareCLI
from hetfed_lightning.cli.configs import ConfigError
from hetfed_lightning.cli.error_messages import condensed, explained
from hetfed_lightning.cli.error_owner import FAULTS, first_lines
from hetfed_lightning.cli.export import export_command
from hetfed_lightning.cli.installed import described, installed_commands, load_command
from hetfed_lightning.cli.join import join_command
from hetfed_lightning.cli.leave import leave_command
from hetfed_lightning.cli.report.command import report_command
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.federation.quarantine import TooFewParticipantsError
from hetfed_lightning.federation.training_watch import watch_training
from hetfed_lightning.logs.undefined import UndefinedMonitorError
from hetfed_lightning.paths import arguments_with_home

TOO_FEW = 1
BAD_INPUT = 2
OWN: Mapping[str, Callable[[Sequence[str]], object]] = {
    "benchmark": benchmark_command,
    "export": export_command,
    "join": join_command,
    "leave": leave_command,
    "report": report_command,
}
"""Commands that are not LightningCLI's."""
COMMANDS = ("fit", "validate", "test", "predict", "compare", *OWN)
"""Commands of the package; installed ones are looked up if none of these is meant."""
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
    if not command.startswith("-") and command not in COMMANDS:
        installed = installed_commands()
        if command not in installed:
            return _refuse(f"no command {command!r}{did_you_mean(command, (*COMMANDS, *installed))}.")
    with watch_training() as watch:
        try:
            return _execute(command, rest)
        except ArgumentError as error:
            return _refuse(explained(str(error)))
        except ConfigError as error:
            return _refuse(str(error))
        except (TooFewParticipantsError, UndefinedMonitorError) as error:
            if os.environ.get(DEBUG):
                raise
            return _refuse(str(error), TOO_FEW if isinstance(error, TooFewParticipantsError) else BAD_INPUT)
        except (OSError, MisconfigurationException, *FAULTS) as error:
            if watch.begun or os.environ.get(DEBUG):
                raise
            return _refuse(_told(error))


def _told(error: Exception) -> str:
    """An error in a sentence, with its type if it is about the program rather than its input."""
    message = condensed(first_lines(str(error)))
    if isinstance(error, ValueError | TypeError | OSError | MisconfigurationException) and message:
        return message
    return f"{type(error).__name__}: {message} ({DEBUG}=1 shows where)"


def _execute(command: str, rest: list[str]) -> int:
    if command == "--version":
        sys.stdout.write(f"hetfed {version('hetfed-lightning')}\n")
    elif command == "compare":
        CompareCLI(rest, run=False).compare()
    elif command in OWN:
        OWN[command](rest)
    elif command in {"-h", "--help"}:
        _HelpfulCLI([command])
    elif command.startswith("-") or command in COMMANDS:
        FederatedCLI([command, *rest])
    else:
        return load_command(installed_commands()[command])(rest) or 0
    return 0


class _HelpfulCLI(FederatedCLI):
    """The CLI with installed commands in its description; only a reader of the help has to wait for their imports."""

    def __init__(self, args: Sequence[str]) -> None:
        self.description = DESCRIPTION + described()
        super().__init__(args)


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
        handler.addFilter(lambda record: getattr(rank_zero_only, "rank", 0) == 0 or record.levelno >= logging.ERROR)
        package.addHandler(handler)
        package.setLevel(logging.INFO)
        package.propagate = False
    # Lightning 2.6 asks torch 2.13 in a way that torch deprecates; a user can do nothing about it.
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not any(noise in record.getMessage() for noise in NOISE)
    )
