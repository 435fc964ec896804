"""Docstrings begin with the noun that comes back: a question word in its place makes the reader guess."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hetfed_lightning"

PARTS = sorted(path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())
"""Packages, and files at the root; a new one is held to it from its first commit on."""

REFUSED = (
    "Return ",
    "What ",
    "Whatever ",
    "Whether ",
    "Which ",
    "Who ",
    "Whoever ",
    "Whose ",
    "Where ",
    "When ",
    "Why ",
    "How ",
    "Those ",
    "Nobody ",
    "As the base class",
    "Hand on",
)


def public_docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring of a module, of what is public in it, and of the attributes in between."""
    tree = ast.parse(source)
    if documented := ast.get_docstring(tree):
        yield 1, documented
    yield from _of_members(tree.body)


def _of_members(body: list[ast.stmt]) -> Iterator[tuple[int, str]]:
    previous: ast.stmt | None = None
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and _is_public(node.name):
            if documented := ast.get_docstring(node):
                yield node.lineno, documented
            if isinstance(node, ast.ClassDef):
                yield from _of_members(node.body)
        elif (
            isinstance(previous, ast.Assign | ast.AnnAssign)
            and isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, node.value.value
        previous = node


def _is_public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def riddles_of(source: str) -> list[tuple[int, str]]:
    """Line and first words of the docstrings that begin with a riddle."""
    return [(line, text.split("\n")[0]) for line, text in public_docstrings(source) if text.startswith(REFUSED)]


@pytest.mark.parametrize("part", PARTS)
def test_public_docstrings_begin_with_a_noun(part: str) -> None:
    files = sorted((PACKAGE / part).rglob("*.py")) if (PACKAGE / part).is_dir() else [PACKAGE / part]
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {text}" for path in files for line, text in riddles_of(path.read_text())
    ]
    assert files
    assert not found, "begin with the noun that comes back (predicates with 'True if'):\n" + "\n".join(found)


def test_riddles_are_found_wherever_a_docstring_may_stand() -> None:
    source = '''"""What a module is about."""

LIMIT = 3
"""Those that are let in."""


class Group:
    """Who belongs together."""

    size: int
    """How many there are."""

    def __call__(self) -> None:
        """Hand on."""

    def is_open(self) -> bool:
        """Whether it is."""

    def _hidden(self) -> None:
        """What is nobody's business."""


def plain() -> None:
    """Members of the group, whatever they are called."""
'''
    assert [line for line, _ in riddles_of(source)] == [1, 4, 7, 11, 13, 16]
