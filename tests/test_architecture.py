"""What docs/architecture.md says is so: folders, the rows that imports go down, and the internals of others."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hetfed_lightning"
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

PRIVATE = re.compile(r"_[a-z]\w*")
OURS = {
    "earlier._counts": "another account of the same class",
    "self.inner._data": "a data module, cut down by its own kind",
    "self._whose": "set past __setattr__",
    "os._exit": "documented",
    "aten._unsafe_view": "an operator's name",
    "Counts._fields": "documented of named tuples",
    "counts._replace": "documented of named tuples",
}
"""What looks like somebody else's internal and is none."""


def section(title: str) -> str:
    """What stands below a heading, up to the next of the same level."""
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Cells of the rows of all tables in a text, without heads and lines."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return [row for row in cells if row[0] not in {"row", "folder", "internal"} and set(row[0]) - set("- :")]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_every_folder_has_a_row_and_a_line() -> None:
    folders = {f"{file.parent.relative_to(PACKAGE)}/" for file in PACKAGE.glob("*/__init__.py")}
    parts = {
        f"{file.parent.relative_to(PACKAGE)}/"
        for place in ("flower", "methods")
        for file in PACKAGE.glob(f"{place}/*/__init__.py")
    }
    in_rows = {one for row in rows(section("Layers")) for one in quoted(row[1])}
    assert folders <= in_rows
    assert {one.name for one in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"} <= in_rows
    in_lines = {one for row in rows(section("What lies where")) for one in quoted(row[0])}
    assert folders - {"flower/"} | parts == in_lines


def row_of(module: str) -> int | None:
    """Number of the row that a module of this package is in; None for the package itself, which gathers from all."""
    place = module.split(".")[1:2]
    for number, row in enumerate(rows(section("Layers"))):
        if place and {f"{place[0]}/", f"{place[0]}.py"} & set(quoted(row[1])):
            return number
    return None


def imported(file: Path) -> Iterator[str]:
    """Modules of this package that a file imports at run time, deferred ones included."""
    tree = tree_of(file)
    typing = {
        id(one)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for one in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing and (node.module or "").startswith(PACKAGE.name):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_imports_go_along_a_row_or_down() -> None:
    found = []
    for file in files():
        own = row_of(".".join(file.relative_to(ROOT).with_suffix("").parts))
        for target in imported(file):
            row = row_of(target)
            if own is not None and row is not None and row < own:
                found.append(f"{file.relative_to(ROOT)} -> {target}")
    assert not found


# Internals of others


def own_names() -> set[str]:
    """Private names that the package defines or gives to its own objects."""
    found: set[str] = set()
    for node in (node for file in files() for node in ast.walk(tree_of(file))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
    return found


def touched(file: Path, own: set[str]) -> Iterator[str]:
    """Private names of other packages' objects and modules, and what is replaced in their modules."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Attribute) and PRIVATE.fullmatch(node.attr):
            mine = ast.unparse(node.value) in {"self", "cls"} and node.attr in own
            if not mine and ast.unparse(node) not in OURS:
                yield node.attr
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(PACKAGE.name):
            yield from (one.name for one in node.names if re.match(r"_[A-Za-z]", one.name))
        elif isinstance(node, ast.Call) and re.fullmatch(r"vars\(\w+\)\.update", ast.unparse(node.func)):
            yield from (str(one.arg) for one in node.keywords if one.arg)


def told() -> set[tuple[str, str]]:
    """Pairs of an internal and a file of the page's tables."""
    return {
        (name, file)
        for row in rows(section("Internals of others"))
        for name in quoted(row[0])
        for file in quoted(row[1])
    }


def test_internals_that_are_touched_are_told() -> None:
    own = own_names()
    found = {(name, str(file.relative_to(PACKAGE))) for file in files() for name in touched(file, own)}
    assert not sorted(found - told())


def test_internals_that_are_told_are_touched() -> None:
    assert not [
        (name, file)
        for name, file in sorted(told())
        if not re.search(rf"{name}\b", (PACKAGE / file).read_text("utf-8"))
    ]
    assert not [one for one in OURS if not any(one in file.read_text(encoding="utf-8") for file in files())]


def test_the_versions_are_those_that_are_installed_here() -> None:
    pinned = dict(re.findall(r"^([\w-]+)==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    seen = dict(re.findall(r"\b([a-z]+) (\d+\.\d+\.\d+)", section("Internals of others")))
    assert len(seen) == 8
    assert seen == {name: pinned[name] for name in seen}
