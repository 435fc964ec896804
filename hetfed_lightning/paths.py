"""Paths as people type them: ``~`` and ``$HOME`` are the home folder of who runs the process."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["arguments_with_home", "with_home"]

_HOME = re.compile(r"\$(?:HOME(?![A-Za-z0-9_])|\{HOME\})")


_TYPED = re.compile(r"(--?[\w.-]+=)?((?:~|\$HOME|\$\{HOME\})(?:/.*)?)", re.DOTALL)


def arguments_with_home(arguments: Sequence[str]) -> list[str]:
    """A command line in which values that begin with the home folder are its paths.

    A shell replaces ``~`` at the beginning of a word alone, not in ``--output=~/runs``, and neither in quotes.

    Args:
        arguments: As they were typed: options, values, ``--option=value``.
    """
    found = []
    for argument in arguments:
        match = _TYPED.fullmatch(argument)
        found.append(argument if match is None else f"{match[1] or ''}{with_home(match[2])}")
    return found


def with_home(path: str | os.PathLike[str]) -> Path:
    """A path in which a leading ``~``, and ``$HOME`` or ``${HOME}`` anywhere, are the home folder.

    Every other character stands for itself, and so does what is there under the very name: a folder called ``~`` is
    found. No other variable is looked up, since what a variable holds may be nobody else's business.

    Args:
        path: As it was typed.
    """
    typed = os.fspath(path)
    if Path(typed).exists():
        return Path(typed)
    try:
        home = str(Path.home())
        return Path(_HOME.sub(lambda _: home, typed)).expanduser()
    except RuntimeError:  # There is no such user, or nobody knows where the home folder is.
        return Path(typed)
