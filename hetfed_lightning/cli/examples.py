"""``hetfed examples``: the configurations that come with the package, and ``hetfed:NAME`` for the path of one."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from hetfed_lightning.cli.errors import ConfigError

PREFIX = "hetfed:"
"""Begin of a word that names an example where the path of a configuration is expected."""

_PACKAGE = Path(__file__).resolve().parent.parent

_BEGIN = re.compile(r"(?:\([^)]*\)|[^(.;:]|[.;:](?! |$))+")
"""Text up to a mark that ends a part of a sentence, outside of brackets."""

WIDTH = 100
"""Columns of the list."""


def examples_folder(package: Path = _PACKAGE) -> Path:
    """Folder of the configurations: inside of an installed package, beside the package in a source tree.

    Args:
        package: Folder of the package.

    Raises:
        ConfigError: If there is none.
    """
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"{package} came without its examples: install hetfed-lightning again.")


def examples() -> dict[str, Path]:
    """Paths of the examples by name, such as ``digits``."""
    return {path.stem: path for path in sorted(examples_folder().glob("*.yaml"))}


def configuration_path(path: str) -> str:
    """Path of the example that ``hetfed:NAME`` names; any other path as it is.

    Args:
        path: Path of a configuration as typed.

    Raises:
        ConfigError: If there is no such example.
    """
    if not path.startswith(PREFIX):
        return path
    name, found = path.removeprefix(PREFIX), examples()
    if name not in found:
        near = difflib.get_close_matches(name, found, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(found)}."
        raise ConfigError(f"{path}: no example {name!r}; {hint}")
    return str(found[name])


def summary(path: Path) -> str:
    """Begin of the comment at the top of a configuration, up to the first full stop, colon or semicolon.

    Args:
        path: The file.
    """
    lines = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    found = _BEGIN.match(" ".join(line.lstrip("# ") for line in lines))
    return f"{found[0]}." if found else ""


def examples_command(arguments: Sequence[str]) -> None:
    """``hetfed examples`` lists configurations; ``hetfed examples digits -o digits.yaml`` copies one.

    Args:
        arguments: Command line after ``hetfed examples``.

    Raises:
        ConfigError: If there is no such example, or the file to write exists.
    """
    parser = argparse.ArgumentParser(
        prog="hetfed examples",
        description="Lists the configurations that come with the package, prints one, or copies it to a file of your "
        f"own. `hetfed fit -c {PREFIX}NAME` trains one as it is.",
    )
    parser.add_argument("name", nargs="?", help="The example; all are listed without it.")
    parser.add_argument("-o", "--output", metavar="FILE", help="File or folder to copy it to; printed without it.")
    options = parser.parse_args(list(arguments))
    if options.name is None:
        if options.output is not None:
            raise ConfigError(f"--output {options.output}: name the example to copy, such as `hetfed examples digits`.")
        sys.stdout.write(_listed(examples()))
        return
    path = Path(configuration_path(PREFIX + options.name.removeprefix(PREFIX)))
    text = path.read_text(encoding="utf-8")
    if options.output is None:
        sys.stdout.write(text)
        return
    target = Path(options.output)
    target = target / path.name if target.is_dir() else target
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"--output {target}: the file exists, and it may be yours. Name another.") from error
    sys.stdout.write(f"{target}: train it by `hetfed fit -c {target}`.\n")


def _listed(found: dict[str, Path]) -> str:
    wide = max(map(len, found)) + 2
    return "".join(
        textwrap.fill(summary(path), WIDTH, initial_indent=name.ljust(wide), subsequent_indent=" " * wide) + "\n"
        for name, path in found.items()
    )
