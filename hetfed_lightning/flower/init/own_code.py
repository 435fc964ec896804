"""Modules of a user's own that a configuration names: copies of those that lie beside it go into every folder."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path


def own_modules(allow_import: Iterable[str], folders: Iterable[Path]) -> dict[str, bytes]:
    """Content of the allowed modules' files that lie beside the configurations or in the current folder, by path.

    Whatever else is allowed is installed, and has to be installed at coordinator and sites as well.

    Args:
        allow_import: Dotted paths that the configuration may name.
        folders: Folders of the configurations.
    """
    here = {one.resolve() for one in (*folders, Path.cwd())}
    found: dict[str, bytes] = {}
    for name in dict.fromkeys(one.partition(".")[0] for one in allow_import):
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            continue
        origin = Path(spec.origin).resolve()
        whole = spec.submodule_search_locations is not None
        root = origin.parent.parent if whole else origin.parent
        if root in here and origin.suffix == ".py":
            files = sorted(origin.parent.rglob("*.py")) if whole else [origin]
            found |= {one.relative_to(root).as_posix(): one.read_bytes() for one in files}
    return found


def listed_modules(modules: Iterable[str]) -> list[str]:
    """Names of modules and packages as they lie in a folder, such as ``"my_rules.py"`` and ``"my_package/"``."""
    tops = (path.partition("/") for path in modules)
    return list(dict.fromkeys(f"{top}/" if below else top for top, below, _ in tops))
