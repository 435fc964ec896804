"""The name ``"federated"`` for a Trainer's strategy, known to Lightning before anything of this package is looked up.

``import hetfed_lightning`` imports neither torch nor Lightning, and ``Trainer(strategy="federated")`` may come right
after it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

NAME = "federated"
DESCRIPTION = "Divides a federation's participants over ranks"


def register_name() -> None:
    """Register the strategy's name with Lightning, now or, if Lightning is not imported yet, when it is."""
    if "lightning.pytorch" in sys.modules and "lightning" in sys.modules:
        _register()
    elif not any(isinstance(one, _LightningFinder) for one in sys.meta_path):
        sys.meta_path.insert(0, _LightningFinder())


def _register() -> None:
    from lightning.pytorch.strategies import StrategyRegistry

    if NAME not in StrategyRegistry:
        StrategyRegistry.register(NAME, _strategy, description=DESCRIPTION)


def _strategy(**arguments: Any) -> Any:
    return import_module("hetfed_lightning.strategies").FederatedStrategy(**arguments)


class _LightningFinder(MetaPathFinder):
    """Finder of Lightning alone, once: whoever executes it registers the name afterwards."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Spec of Lightning with a loader that registers the name too; None for any other module."""
        if fullname != "lightning":
            return None
        del path, target
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = find_spec(fullname)  # As all other finders find it.
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(Loader):
    """Loader of Lightning, and then of the name."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Module as the loader makes it."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute Lightning, with its own loader in its place, and register the name."""
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        module.__loader__ = self.loader
        self.loader.exec_module(module)
        _register()
