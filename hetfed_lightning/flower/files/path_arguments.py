"""Arguments of a class that are paths, by their annotations."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any, get_args, get_origin, get_type_hints

import jsonargparse

from hetfed_lightning.cli.allowlist import allowed_class

_PATH: type = jsonargparse.Path  # type: ignore[attr-defined]  # In its documentation, and not in its __all__.


def path_arguments(class_path: object) -> Collection[str] | None:
    """Names of the arguments that are annotated as paths; None where the class annotates none, or cannot be imported.

    ``Path``, ``str | Path``, ``dict[str, Path]`` and jsonargparse's types of paths are such annotations.

    Args:
        class_path: Dotted path of a class, as a configuration names it.
    """
    kind = allowed_class(class_path) if isinstance(class_path, str) else None
    found: set[str] = set()
    for one in kind.__mro__ if kind is not None else ():  # Arguments may be handed on to parents.
        try:
            hints = get_type_hints(vars(one).get("__init__", object.__init__))
        except (NameError, TypeError, AttributeError):
            continue
        found |= {name for name, hint in hints.items() if _is_of_paths(hint)}
    return found or None


def _is_of_paths(hint: Any) -> bool:
    """True if a type is one of paths, or holds one."""
    kind = get_origin(hint) or hint
    if isinstance(kind, type) and issubclass(kind, (os.PathLike, _PATH)):
        return True
    return any(map(_is_of_paths, get_args(hint)))
