"""Nobody but a federation writes its attributes, or those of its parts."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "hetfed_lightning").rglob("*.py")) + sorted((ROOT / "scripts").rglob("*.py"))
FEDERATIONS = {"company", "federation", "pl_module", "source"}
"""Names that federations have in functions that are given one."""

OF_LIGHTNING = {"federation.trainer.should_stop"}
"""Switches of a Trainer that are there to be set."""


def written(tree: ast.AST) -> list[str]:
    """Attributes and items of a federation that statements assign or delete, as they are written."""
    found: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.Delete):
            found += node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            found.append(node.target)
    flat = [part for one in found for part in (one.elts if isinstance(one, ast.Tuple | ast.List) else [one])]
    return [ast.unparse(one) for one in flat if isinstance(one, ast.Attribute | ast.Subscript) and _is_its(one)]


def _is_its(place: ast.expr) -> bool:
    """Whether a place is reached through attributes of a federation."""
    inner = place.value if isinstance(place, ast.Attribute | ast.Subscript) else place
    while isinstance(inner, ast.Attribute):
        inner = inner.value
    return isinstance(inner, ast.Name) and inner.id in FEDERATIONS


def test_no_file_writes_into_a_federation() -> None:
    found = {str(path.relative_to(ROOT)): written(ast.parse(path.read_text("utf-8"))) for path in FILES}
    assert not {path: rest for path, places in found.items() if (rest := set(places) - OF_LIGHTNING)}


def test_what_is_found() -> None:
    code = "federation.student = None; del source.participants['a']; federation.guard.left, x = 1, 2"
    places = ["federation.student", "source.participants['a']", "federation.guard.left"]
    assert written(ast.parse(code)) == places
    assert not written(ast.parse("x = federation.student\nfederation.trainer.fit()\nlocal['a'].steps += 1"))
