"""Options from variables of the environment: ``HETFED_TRAINER__MAX_EPOCHS=3`` is ``--trainer.max_epochs=3``.

They count more than configurations and less than the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence

from jsonargparse import ArgumentParser

from hetfed_lightning.cli.errors import ConfigError

PREFIX = "HETFED_"
BELOW = "__"
"""Characters that stand for a dot, since names of variables have none."""

LISTS = ("config", "allow_import")
"""Options that may be repeated; in a variable their values are separated by commas."""

READ_BEFORE = (*LISTS, "method")
"""Options that no parser knows, being read before it."""


def options_of(parser: ArgumentParser) -> set[str]:
    """First words of a parser's options, such as ``trainer`` and ``threads``.

    Args:
        parser: Parser of one command.
    """
    return {action.dest.partition(".")[0] for action in parser._actions} - {"help", "print_config"}


def from_environment(
    environment: Mapping[str, str], options: Collection[str], given: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Arguments of a command line that stand for variables, and the names of these variables.

    Variables of one word that is no option, which other commands and programs may have, are passed over.

    Args:
        environment: Variables of the process.
        options: First words of the command's options.
        given: Command line, whose ``-c`` replaces ``HETFED_CONFIG``.

    Raises:
        ConfigError: If a variable of several words begins with none of the options.
    """
    arguments, used = [], []
    known = {*options, *READ_BEFORE}
    for name in sorted(one for one in environment if one.startswith(PREFIX) and environment[one]):
        words = name.removeprefix(PREFIX).lower().split(BELOW)
        if words[0] not in known:
            if len(words) > 1:
                close = difflib.get_close_matches(words[0], known, 1)
                hint = f"; did you mean {PREFIX}{BELOW.join([close[0], *words[1:]]).upper()}?" if close else "."
                raise ConfigError(f"{name}: there is no option --{words[0]}{hint} Unset it, or mend its name.")
            continue
        option = ".".join(words)
        if option == "config" and _names_a_configuration(given):
            continue
        values = environment[name].split(",") if option in LISTS else [environment[name]]
        arguments += [f"--{option}={value.strip()}" for value in values]
        used.append(name)
    return arguments, used


def _names_a_configuration(given: Sequence[str]) -> bool:
    return any(one.partition("=")[0] in {"-c", "--config"} for one in given)
