"""Paths in the configuration of data: relative to the file that names them, wherever a process was started."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from hetfed_lightning.flower.files.path_arguments import path_arguments
from hetfed_lightning.paths import with_home

_PATH = re.compile(r"(?:.+_)?(?:path|paths|folder|folders|file|files|dir|directory|root)|public")


def with_paths(config: Any, change: Callable[[str], str]) -> Any:
    """Copy of a configuration in which paths are changed.

    Paths are texts of arguments that their class annotates so. Where it annotates none, those below keys such as
    ``path`` and ``image_folder`` are.

    Args:
        config: Settings of a data module: ``class_path`` and ``init_args``.
        change: Function from a path to its replacement.
    """
    return _changed(config, change, is_path=False)


def paths_in(config: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Every path in a configuration, after the dotted key under which it stands.

    Args:
        config: Settings of a data module.
        keys: Keys above it.
    """
    yield from _found(config, keys, is_path=False)


def absolute(path: str, folder: Path) -> str:
    """Path that does not depend on the working folder.

    Args:
        path: Absolute, or relative to ``folder``; ``~`` and ``$HOME`` are the home of the process's user.
        folder: Folder of the file in which it stands.
    """
    return str(folder / with_home(path))


def _names_path(key: str) -> bool:
    return key != "class_path" and _PATH.fullmatch(key) is not None


def _changed(value: Any, change: Callable[[str], str], *, is_path: bool | Collection[str]) -> Any:
    if isinstance(value, dict):
        return {key: _changed(one, change, is_path=_below(key, value, is_path=is_path)) for key, one in value.items()}
    if isinstance(value, list):
        return [_changed(one, change, is_path=is_path) for one in value]
    return change(value) if is_path is True and isinstance(value, str) else value


def _found(value: Any, keys: tuple[str, ...], *, is_path: bool | Collection[str]) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _found(one, (*keys, str(key)), is_path=_below(key, value, is_path=is_path))
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from _found(one, (*keys, str(place)), is_path=is_path)
    elif is_path is True and isinstance(value, str):
        yield ".".join(keys), value


def _below(key: Any, mapping: dict[Any, Any], *, is_path: bool | Collection[str]) -> bool | Collection[str]:
    """True if texts below a key are paths, or the names of the arguments that are.

    A class that annotates arguments as paths has paths below these alone. Elsewhere a key tells by its name, or (as a
    participant's) by the key above it.
    """
    if key == "init_args" and (annotated := path_arguments(mapping.get("class_path"))) is not None:
        return annotated
    if not isinstance(is_path, bool):
        return str(key) in is_path
    return _names_path(str(key)) or (is_path and "class_path" not in mapping and key != "class_path")
