"""Import of packages that only some users need, at the moment they need them."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["import_optional"]


def import_optional(module: str, install: str) -> ModuleType:
    """Module that may not be installed, imported.

    Args:
        module: Dotted name, as ``"PIL.Image"``.
        install: Requirement for ``pip install``, as ``"hetfed-lightning[images]"``.

    Returns:
        The imported module.

    Raises:
        ImportError: If it is not installed; the message names what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        msg = f"{package} is needed here and could not be imported ({error}): pip install '{install}'"
        raise ImportError(msg, name=package) from error
