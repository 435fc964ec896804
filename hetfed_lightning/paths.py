"""Paths as users type them: ``~`` and ``$HOME`` stand for the home folder of the process's user."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["arguments_with_home", "with_home"]

_HOME = re.compile(r"\$(?:HOME(?![A-Za-z0-9_])|\{HOME\})")


_TYPED = re.compile(r"(--?[\w.-]+=)?((?:~|\$HOME|\$\{HOME\})(?:/.*)?)", re.DOTALL)


def arguments_with_home(arguments: Sequence[str]) -> list[str]:
    """Command line whose values have ``~`` and ``$HOME`` replaced by the home folder.

    A shell replaces ``~`` only at the beginning of an unquoted word, not in ``--output=~/runs``.

    Args:
        arguments: Words as typed: options, values, ``--option=value``.
    """
    found = []
    for argument in arguments:
        match = _TYPED.fullmatch(argument)
        found.append(argument if match is None else f"{match[1] or ''}{with_home(match[2])}")
    return found


def with_home(path: str | os.PathLike[str]) -> Path:
    """Path whose leading ``~``, and ``$HOME`` or ``${HOME}`` anywhere, are replaced by the home folder.

    All other characters stay. A path that exists under the very name stays too, such as a folder called ``~``. Other
    variables are not read, since their values may be secret.

    Args:
        path: Path as typed.
    """
    typed = os.fspath(path)
    if Path(typed).exists():
        return Path(typed)
    try:
        home = str(Path.home())
        return Path(_HOME.sub(lambda _: home, typed)).expanduser()
    except RuntimeError:  # There is no such user, or nobody knows where the home folder is.
        return Path(typed)
