"""Commands of other packages: entry points of the group ``hetfed_lightning.commands``, loaded when they are used.

A package adds one in its ``pyproject.toml``::

    [project.entry-points."hetfed_lightning.commands"]
    audit = "my_package.cli:main"

``main(arguments)`` gets the command line after the command's name and returns the exit code, or None for 0. The first
line of its docstring is shown by ``hetfed --help``. A ``ConfigError`` that it raises is shown as a sentence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points

from hetfed_lightning.cli.errors import ConfigError

GROUP = "hetfed_lightning.commands"


def installed_commands() -> dict[str, EntryPoint]:
    """Commands installed beside the package's own, by name; none of them is imported."""
    return {found.name: found for found in entry_points(group=GROUP)}


def load_command(command: EntryPoint) -> Callable[[Sequence[str]], int | None]:
    """Function of a command.

    Raises:
        ConfigError: If it cannot be imported; names the module.
    """
    try:
        loaded: Callable[[Sequence[str]], int | None] = command.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"hetfed {command.name}: {command.value} cannot be imported: {error}") from error
    return loaded


def described(command: EntryPoint) -> str:
    """First line of the docstring of an installed command, which is imported for it."""
    try:
        text = inspect.getdoc(load_command(command)) or f"{command.value}, which says nothing of itself."
    except ConfigError:
        return f"{command.value}, which cannot be imported."
    return text.splitlines()[0]
