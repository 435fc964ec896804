"""Values that a configuration may not have: unchecked files, addresses, and names inside of a class.

The list of packages (:mod:`hetfed_lightning.cli.allowlist`) says which modules may be named. Here values are refused
that lead past it: another configuration to be read, a folder on a server, a method of a class or a private function.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jsonargparse import ArgumentParser

from hetfed_lightning.cli.allowlist import ALLOWED
from hetfed_lightning.cli.errors import ConfigError

FOLDERS = frozenset({"default_root_dir", "dirpath", "root_dir", "save_dir"})
"""Keys of folders that runs, checkpoints and profiles are written to."""

_ROOTS = "|".join(sorted({one.partition(".")[0] for one in ALLOWED}))
_INSIDE = re.compile(rf"(?:{_ROOTS})\.(?:\w+\.)*(?:[A-Z]\w*\.\w+|_\w+(?:\.\w+)*)")


def check_values(config: dict[str, Any], path: str) -> None:
    """Refuse a configuration with a forbidden value.

    Args:
        config: Content of the file.
        path: The file, for messages.

    Raises:
        ConfigError: If there is one; names file and key.
    """
    if config.get("config") is not None or isinstance(config.get("trainer"), str | list):
        key = "config" if config.get("config") is not None else "trainer"
        raise ConfigError(
            f"{path}: {key}: a configuration may not read another one, since that would be read unchecked. Give all of "
            "them with -c, one after another."
        )
    _check_classes(config, (), path)
    for keys, value in _texts(config, ()):
        if keys[-1] in FOLDERS and ("://" in value or "::" in value):
            raise ConfigError(
                f"{path}: {'.'.join(keys)}: expected a folder on this machine, got {value!r}. What a run has learned "
                "is not sent to an address that a configuration names: mount it, or copy the results afterwards."
            )
        if _INSIDE.fullmatch(value):
            raise ConfigError(
                f"{path}: {'.'.join(keys)}: {value!r} may not be named by a configuration: it is private, or belongs "
                "to a class. Name a class."
            )


def read_no_other_file(parser: ArgumentParser) -> None:
    """Make a parser take no value as the name of another file to read, which would be unchecked."""
    for action in parser._actions:
        if hasattr(action, "_enable_path"):
            action._enable_path = False
            action.sub_add_kwargs["sub_configs"] = False  # type: ignore[attr-defined]  # of jsonargparse's own


def _check_classes(value: Any, keys: tuple[str, ...], path: str) -> None:
    """Refuse classes that are not named by text, and class arguments that are not given by name."""
    if isinstance(value, dict):
        kinds: tuple[tuple[str, type, str], ...] = (
            ("class_path", str, "a class's dotted path"),
            ("init_args", dict, "arguments by name"),
        )
        for key, kind, words in kinds:
            found = value.get(key, kind())
            if not isinstance(found, kind) and not (key == "init_args" and found is None):
                where = ".".join((*keys, key))
                raise ConfigError(f"{path}: {where}: expected {words}, got {found!r:.60}.")
    for key, inside in _items(value):
        _check_classes(inside, (*keys, key), path)


def _texts(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text in a configuration, with the keys that lead to it."""
    for key, inside in _items(value):
        yield from _texts(inside, (*keys, key))
    if isinstance(value, str) and keys:
        yield keys, value


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    found = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield from ((str(key), inside) for key, inside in found)
