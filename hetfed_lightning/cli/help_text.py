"""Docstrings of commands as their helps show them: for a person who types, without sections on arguments and errors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

_SECTION = re.compile(r"^(?:Args|Returns|Raises|Yields|Attributes):$", re.MULTILINE)


def help_text(command: Callable[..., object]) -> str:
    """Docstring of a function up to its first section, on one line, with single backticks.

    Args:
        command: The function of a command.
    """
    text = _SECTION.split(inspect.getdoc(command) or "", maxsplit=1)[0]
    return " ".join(text.replace("``", "`").split())
