"""Names of a package that are imported when they are first looked up, so that a command need not wait for torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from hetfed_lightning._moved import names_moved_from

_TABLES: dict[str, Mapping[str, Sequence[str]]] = {}


def lazy_names(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """``__getattr__`` function of a package, which imports a name or a module of it, and knows moved names.

    Args:
        package: Dotted path of the package.
        modules: Names by the module that has them, relative to the package.
    """
    places = {name: f"{package}.{module}" for module, names in modules.items() for name in names}
    moved = names_moved_from(package)
    _TABLES[package] = modules

    def find(name: str) -> Any:
        if name in places:
            found = getattr(import_module(places[name]), name)
            vars(sys.modules[package])[name] = found
            return found
        if not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            return import_module(f"{package}.{name}")
        return moved(name)

    return find


def import_all(package: str) -> None:
    """Import every lazy name of a package: who is named without a module is looked for among imported classes.

    Args:
        package: Dotted path of the package.
    """
    for names in _TABLES[package].values():
        for name in names:
            getattr(sys.modules[package], name)
