"""Methods by name: those of papers, found by walking their folder, and settings of averaging that have a name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hetfed_lightning.methods import published
from hetfed_lightning.methods.method import Method
from hetfed_lightning.methods.search_space import Range, log_range, search_space

AVERAGING = "hetfed_lightning.BackboneAveraging"


@dataclass(frozen=True)
class NamedMethod:
    """A method that a name stands for.

    Attributes:
        class_path: Dotted path of its class; empty for participants that do nothing together.
        init_args: Arguments of the class.
        shared: Patterns of ``Participant(shared=...)`` as its paper has them; empty to leave them as they are.
        search_space: Ranges of arguments that a benchmark's ``--tune`` searches.
    """

    class_path: str
    init_args: Mapping[str, Any] = field(default_factory=dict)
    shared: Sequence[str] = ()
    search_space: Mapping[str, Range] = field(default_factory=dict)


PRESETS: Mapping[str, NamedMethod] = {
    "local": NamedMethod(""),
    "fedavg": NamedMethod(AVERAGING, {"max_share": 1.0}, ("*",)),
    "fedper": NamedMethod(AVERAGING, {"max_share": 1.0}, ("backbone",)),
    "lgfedavg": NamedMethod(AVERAGING, {"max_share": 1.0}, ("head",)),
    "fedprox": NamedMethod(
        AVERAGING,
        {"max_share": 1.0, "proximal": 0.01},
        ("*",),
        search_space(proximal=log_range(0.001, 1.0)),
    ),
}
"""Methods that are settings of averaging: McMahan et al. 2017, Arivazhagan et al. 2019, Liang et al. 2020, Li et al.
2020. Their weights are exactly ``n_k / n``."""


@cache
def known_methods() -> Mapping[str, NamedMethod]:
    """Methods by name: presets, and published methods by their class's name in lower case."""
    found = dict(PRESETS)
    for info in pkgutil.iter_modules(published.__path__, f"{published.__name__}."):
        module = importlib.import_module(info.name)
        for name, kind in vars(module).items():
            if inspect.isclass(kind) and issubclass(kind, Method) and kind.__module__ == module.__name__:
                shared = tuple(kind.paper_shares)
                found[name.lower()] = NamedMethod(f"{module.__name__}.{name}", {}, shared, kind.search_space)
    return found
