"""Who may import whom: the seams of the package, read from the source without importing it.

A new rule is a line of RULES. For a rule, what stands under ``if TYPE_CHECKING:`` does not count where it names a
module of this package, since nothing is imported at run time. For any other library it counts: a type ties too.
No module reaches itself through imports of any kind, those for types and those in functions among them; where a lower
one has to name a higher one, it names a Protocol.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "hetfed_lightning"
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Rule:
    """What the modules at ``place`` may import.

    Attributes:
        place: A module or package below hetfed_lightning; "" for all of them.
        reason: Completes "because".
        only: Libraries it may import beside the standard library and itself; None for no limit.
        never: Modules it must not import, nor anything below them.
    """

    place: str
    reason: str
    only: tuple[str, ...] | None = None
    never: tuple[str, ...] = ()


PURE = "it also serves a deployment without Lightning, one process per institution"
OLD_NAMES = f"{PACKAGE}._moved"
"""Of the standard library alone."""
PLAIN = "an architecture is a plain nn.Module, of use in any other project and in a subclass of anybody's"

RULES = [
    Rule("aggregation", PURE, only=("torch",)),
    Rule("distillation", PURE, only=("torch", f"{PACKAGE}.aggregation")),
    Rule("intervals", "a report is made without torch", only=("scipy",)),
    Rule(
        "metrics",
        PURE,
        only=("torch", "torchmetrics", f"{PACKAGE}.intervals", f"{PACKAGE}.aggregation", f"{PACKAGE}.distillation"),
    ),
    Rule("privacy", PURE, only=("torch", "dp_accounting", "opacus", OLD_NAMES, f"{PACKAGE}.aggregation")),
    Rule("layers", PLAIN, only=("torch", OLD_NAMES)),
    Rule("backbones", PLAIN, only=("torch", OLD_NAMES, f"{PACKAGE}.layers")),
    Rule("heads", PLAIN, only=("torch", f"{PACKAGE}.layers")),
    Rule(
        "participants.compilation",
        "it compiles modules of any kind, with or without a federation",
        only=("torch", f"{PACKAGE}.participants.torch_hooks"),
    ),
    Rule("participants.precision", "it speaks of parameters and optimizers alone", only=("torch",)),
    Rule("tasks", PURE, only=("torch", "torchmetrics", f"{PACKAGE}.distillation", f"{PACKAGE}.metrics")),
    Rule(
        "participants",
        "a participant is a LightningModule that also trains alone",
        never=(f"{PACKAGE}.federation", f"{PACKAGE}.methods", f"{PACKAGE}.callbacks", f"{PACKAGE}.cli"),
    ),
    Rule(
        "local_training",
        "a participant takes its local steps alone, whatever follows them",
        never=(f"{PACKAGE}.federation", f"{PACKAGE}.methods", f"{PACKAGE}.callbacks", f"{PACKAGE}.cli"),
    ),
    Rule("shared_storage", "tensors are lent and compared without knowing whose they are", only=("torch", "numpy")),
    Rule(
        "logs",
        "figures are kept, reduced and written without knowing who trains",
        never=(
            f"{PACKAGE}.federation",
            f"{PACKAGE}.participants",
            f"{PACKAGE}.methods",
            f"{PACKAGE}.callbacks",
            f"{PACKAGE}.cli",
        ),
    ),
    Rule(
        "methods",
        "a method is the same in one process, over ranks and between institutions",
        never=(f"{PACKAGE}.federation", f"{PACKAGE}.callbacks", f"{PACKAGE}.cli", f"{PACKAGE}.flower"),
    ),
    Rule(
        "federated_callback",
        "whoever writes a callback needs no more",
        only=("lightning", "torch", f"{PACKAGE}.seeding"),
    ),
    Rule(
        "federation_view", "it says what is seen of a federation and needs nothing of it", only=("lightning", "torch")
    ),
    Rule(
        "callbacks",
        "they watch a federation and decide nothing in it",
        never=(f"{PACKAGE}.federation", f"{PACKAGE}.cli", f"{PACKAGE}.flower"),
    ),
    Rule(
        "federation",
        "a federation trains without a command line, in one process",
        never=(f"{PACKAGE}.cli", f"{PACKAGE}.flower"),
    ),
    Rule(
        "data",
        "data is read and divided without knowing who learns from it",
        never=(f"{PACKAGE}.federation", f"{PACKAGE}.methods", f"{PACKAGE}.callbacks", f"{PACKAGE}.participants"),
    ),
    Rule(
        "fleets",
        "an engine computes for participants that it is given, and decides nothing in a round",
        never=(f"{PACKAGE}.federation", f"{PACKAGE}.methods", f"{PACKAGE}.callbacks", f"{PACKAGE}.cli"),
    ),
    Rule(
        "strategies",
        "ranks carry what others compute, and callbacks ask them, not they the callbacks",
        never=(
            f"{PACKAGE}.federation",
            f"{PACKAGE}.methods",
            f"{PACKAGE}.callbacks",
            f"{PACKAGE}.data",
            f"{PACKAGE}.cli",
        ),
    ),
    Rule(
        "flower.protocol",
        "both sides read it, and neither is to know the other",
        never=tuple(f"{PACKAGE}.flower.{one}" for one in ("files", "coordinator", "site", "engine", "deploy", "init")),
    ),
    Rule(
        "flower.files",
        "every role reads the files of a deployment",
        never=tuple(f"{PACKAGE}.flower.{one}" for one in ("coordinator", "site", "engine", "deploy", "init")),
    ),
    Rule(
        "flower.site",
        "an institution runs a site without a coordinator",
        never=tuple(f"{PACKAGE}.flower.{one}" for one in ("coordinator", "engine", "deploy", "init")),
    ),
    Rule(
        "flower.coordinator",
        "it leads sites whoever started it, and asks the student alone as a site asks its participant",
        never=tuple(f"{PACKAGE}.flower.{one}" for one in ("engine", "deploy", "init")),
    ),
    Rule(
        "flower.engine",
        "it starts and watches processes, and nothing in it learns",
        never=tuple(f"{PACKAGE}.flower.{one}" for one in ("protocol", "coordinator", "site", "deploy", "init")),
    ),
    Rule(
        "flower.init",
        "it writes files and starts nothing",
        never=(f"{PACKAGE}.flower.engine", f"{PACKAGE}.flower.deploy"),
    ),
    *(
        Rule(place, "showcases use the package, which works without them", never=(f"{PACKAGE}.showcases",))
        for place in (
            *("data", "layers", "backbones", "participants", "federation", "callbacks", "cli", "fleets", "strategies"),
        )
    ),
    Rule("", "it does not load beside the CPU build of torch 2.13", never=("torchvision",)),
]


@dataclass(frozen=True)
class Import:
    """One imported module: where, and whether importing the file imports it.

    Attributes:
        target: Dotted name of the module.
        line: Line of the statement, from 1.
        for_types: It stands under ``if TYPE_CHECKING:``.
        deferred: It stands in a function.
    """

    target: str
    line: int
    for_types: bool = False
    deferred: bool = False


# ------------------------------------------------------------------------------------- reading the source


def is_type_checking(test: ast.expr) -> bool:
    """Whether ``test`` is ``TYPE_CHECKING`` or ``typing.TYPE_CHECKING``."""
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def statements(
    nodes: Iterable[ast.AST], *, for_types: bool = False, deferred: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    """Every import below ``nodes`` with ``for_types`` and ``deferred``."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, for_types, deferred
        elif isinstance(node, ast.If) and is_type_checking(node.test):
            yield from statements(node.body, for_types=True, deferred=deferred)
            yield from statements(node.orelse, for_types=for_types, deferred=deferred)
        else:
            inside = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from statements(ast.iter_child_nodes(node), for_types=for_types, deferred=inside)


def imports_of(source: str, module: str, modules: Iterable[str], *, is_package: bool = False) -> list[Import]:
    """The modules that ``source`` imports.

    Args:
        source: Text of the file.
        module: Its dotted name, from which relative imports start.
        modules: All modules of the package; in ``from a import b`` they tell whether b is one.
        is_package: The file is an ``__init__.py``.
    """
    known = set(modules)
    found = []
    for node, for_types, deferred in statements([ast.parse(source)]):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            # One dot is the package itself, which is the module where the file is an __init__.py.
            parts = module.split(".")
            start = parts[: len(parts) + is_package - node.level] if node.level else []
            origin = ".".join([*start, *([node.module] if node.module else [])])
            targets = [name if (name := f"{origin}.{alias.name}") in known else origin for alias in node.names]
        found += [Import(target, node.lineno, for_types, deferred) for target in dict.fromkeys(targets)]
    return found


def sources() -> dict[str, Path]:
    """File of every module of the package, by dotted name."""
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    return {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in files}


@pytest.fixture(scope="module")
def imports() -> dict[str, list[Import]]:
    """Imports of every module of the package."""
    files = sources()
    return {
        module: imports_of(path.read_text("utf-8"), module, files, is_package=path.stem == "__init__")
        for module, path in files.items()
    }


# ----------------------------------------------------------------------------------------------- the laws


def lies_in(module: str, place: str) -> bool:
    """Whether ``module`` is ``place`` or below it."""
    return module == place or module.startswith(f"{place}.")


def broken(rule: Rule, imports: dict[str, list[Import]]) -> list[str]:
    """Every import that ``rule`` forbids, as "module:line imports target"."""
    place = f"{PACKAGE}.{rule.place}" if rule.place else PACKAGE
    faults = []
    for module, found in imports.items():
        for each in found if lies_in(module, place) else []:
            if each.for_types and lies_in(each.target, PACKAGE):
                continue
            allowed = (
                rule.only is None
                or each.target.split(".")[0] in sys.stdlib_module_names
                or any(lies_in(each.target, name) for name in (*rule.only, place))
            )
            if not allowed or any(lies_in(each.target, name) for name in rule.never):
                faults.append(f"{module}:{each.line} imports {each.target}")
    return faults


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """Names along one cycle of ``graph``, the first one again at the end; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        names: list[str] = error.args[1]
        return names
    return []


def module_graph(imports: dict[str, list[Import]], *, at_once: bool = False) -> dict[str, set[str]]:
    """For each module, those of the package that it imports; parents' ``__init__`` do not count.

    Args:
        imports: Imports of every module.
        at_once: Leave out imports for types and those in functions.
    """
    return {
        module: {
            each.target
            for each in found
            if each.target in imports and not (at_once and (each.for_types or each.deferred))
        }
        - {module}
        for module, found in imports.items()
    }


def package_graph(graph: dict[str, set[str]], depth: int = 2) -> dict[str, set[str]]:
    """``graph`` with every package drawn together to one node; ``depth`` 2 for those right below hetfed_lightning."""

    def package(module: str) -> str:
        return ".".join(module.split(".")[:depth])

    joined: dict[str, set[str]] = {}
    for module, targets in graph.items():
        node = joined.setdefault(package(module), set())
        node.update(package(target) for target in targets if package(target) != package(module))
    return joined


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.place or "everywhere")
def test_imports_keep_to_the_rule(rule: Rule, imports: dict[str, list[Import]]) -> None:
    place = f"{PACKAGE}.{rule.place}" if rule.place else PACKAGE
    assert place in imports, f"RULES names {place}, which is not there: a rule that guards nothing"
    faults = broken(rule, imports)
    assert not faults, "\n".join([f"not allowed, because {rule.reason}:", *faults])


def test_no_module_imports_itself_through_others(imports: dict[str, list[Import]]) -> None:
    assert not (cycle := cycle_in(module_graph(imports))), " -> ".join(cycle)


def test_no_package_imports_itself_through_others(imports: dict[str, list[Import]]) -> None:
    assert not (cycle := cycle_in(package_graph(module_graph(imports, at_once=True)))), " -> ".join(cycle)


def test_no_part_of_flower_imports_itself_through_others(imports: dict[str, list[Import]]) -> None:
    flower = {
        name: found for name, found in module_graph(imports, at_once=True).items() if lies_in(name, f"{PACKAGE}.flower")
    }
    assert not (cycle := cycle_in(package_graph(flower, depth=3))), " -> ".join(cycle)


# ------------------------------------------------------------------------- the reader and the laws, by hand

EXAMPLE = """
from __future__ import annotations
import torch.nn as nn, math
from typing import TYPE_CHECKING
from hetfed_lightning import heads
from hetfed_lightning.heads import Linear
from . import sibling
from .sibling import name
from .. import callbacks
if TYPE_CHECKING:
    from hetfed_lightning.federation import Federation
else:
    import json
try:
    import pandas
except ImportError:
    pandas = None
class A:
    def f(self):
        import matplotlib.pyplot
"""
EXAMPLE_MODULES = [
    f"{PACKAGE}{name}" for name in ("", ".heads", ".federation", ".callbacks", ".data", ".data.here", ".data.sibling")
]


def test_the_reader_finds_every_import() -> None:
    found = imports_of(EXAMPLE, f"{PACKAGE}.data.here", EXAMPLE_MODULES)
    assert found == [
        Import("__future__", 2),
        Import("torch.nn", 3),
        Import("math", 3),
        Import("typing", 4),
        Import(f"{PACKAGE}.heads", 5),
        Import(f"{PACKAGE}.heads", 6),
        Import(f"{PACKAGE}.data.sibling", 7),
        Import(f"{PACKAGE}.data.sibling", 8),
        Import(f"{PACKAGE}.callbacks", 9),
        Import(f"{PACKAGE}.federation", 11, for_types=True),
        Import("json", 13),
        Import("pandas", 15),
        Import("matplotlib.pyplot", 20, deferred=True),
    ]


def test_the_reader_resolves_dots_from_a_package() -> None:
    found = imports_of(
        "from .sibling import name\nfrom .. import heads", f"{PACKAGE}.data", EXAMPLE_MODULES, is_package=True
    )
    # `..` from hetfed_lightning.data is hetfed_lightning.
    assert [each.target for each in found] == [f"{PACKAGE}.data.sibling", f"{PACKAGE}.heads"]


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("aggregation", "import lightning"),
        ("aggregation", "from torchmetrics import Metric"),
        ("aggregation", "import numpy"),
        ("aggregation", "def f():\n    import lightning"),
        ("aggregation", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import lightning"),
        ("distillation", f"from {PACKAGE}.metrics import jain_index"),
        ("metrics", f"from {PACKAGE} import Federation"),
        ("participants", f"from {PACKAGE}.callbacks.averaging import BackboneAveraging"),
        ("methods", f"from {PACKAGE}.federation.federation import Federation"),
        ("shared_storage", f"from {PACKAGE}.participants.participant import Participant"),
        ("backbones", f"from {PACKAGE}.heads import MLPHead"),
        ("data", f"from {PACKAGE}.participants.participant import Participant"),
        ("", "import torchvision.transforms"),
    ],
)
def test_a_forbidden_import_is_named(place: str, source: str) -> None:
    module = f"{PACKAGE}.{place or 'cli'}"
    imports = {module: imports_of(source, module, [module], is_package=True)}
    rule = next(rule for rule in RULES if rule.place == place)
    assert len(broken(rule, imports)) == 1
    assert broken(rule, imports)[0].startswith(f"{module}:")


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("aggregation", "import math\nimport torch.nn.functional as F\nfrom torch import Tensor"),
        ("aggregation", f"from {PACKAGE}.aggregation.state import State"),
        (
            "metrics",
            f"import typing\nif typing.TYPE_CHECKING:\n    from {PACKAGE}.aggregation import State",
        ),
        ("participants", f"from {PACKAGE}.tasks import Task\nimport lightning, torchmetrics"),
        ("data", f"from {PACKAGE}.participants_of import x"),
    ],
)
def test_an_allowed_import_passes(place: str, source: str) -> None:
    module = f"{PACKAGE}.{place}"
    imports = {module: imports_of(source, module, [module], is_package=True)}
    assert not [fault for rule in RULES for fault in broken(rule, imports)]


def test_a_cycle_is_found_between_modules_and_between_packages() -> None:
    # a.x -> b.x -> a.y: no module twice on the way, yet a needs b and b needs a.
    graph = {
        f"{PACKAGE}.a.x": {f"{PACKAGE}.b.x"},
        f"{PACKAGE}.b.x": {f"{PACKAGE}.a.y"},
        f"{PACKAGE}.a.y": set[str](),
    }
    assert not cycle_in(graph)
    assert set(cycle_in(package_graph(graph))) == {f"{PACKAGE}.a", f"{PACKAGE}.b"}
    graph[f"{PACKAGE}.a.y"].add(f"{PACKAGE}.a.x")
    assert len(cycle_in(graph)) == 4


@pytest.mark.parametrize("back", [Import(f"{PACKAGE}.a", 1, for_types=True), Import(f"{PACKAGE}.a", 1, deferred=True)])
def test_imports_for_types_and_in_functions_close_a_cycle(back: Import) -> None:
    imports = {f"{PACKAGE}.a": [Import(f"{PACKAGE}.b", 1)], f"{PACKAGE}.b": [back]}
    assert set(cycle_in(module_graph(imports))) == {f"{PACKAGE}.a", f"{PACKAGE}.b"}
    assert not cycle_in(module_graph(imports, at_once=True))
