"""The table of promises: every row has a test and a defence that can be taken out, every marker a row."""

import ast
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement

import pytest

from scripts.promises.promise import Promise
from scripts.promises.running import counted
from scripts.promises.table import AREAS, Tally, chosen, rows

ROOT = Path(__file__).resolve().parents[1]
PROMISES = [promise for promises in AREAS.values() for promise in promises]


def marked() -> Iterator[str]:
    """Keys in ``pytest.mark.promise("key")`` anywhere in the tests."""
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.promise":
                assert isinstance(node.args[0], ast.Constant), f"{path}: write the key out, {ast.unparse(node)}"
                yield str(node.args[0].value)


def test_rows_and_markers_are_the_same() -> None:
    keys = [promise.key for promise in PROMISES]
    assert len(keys) == len(set(keys))
    assert set(keys) == set(marked())


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.key)
def test_every_row_has_a_defence_that_can_be_taken_out(promise: Promise) -> None:
    assert promise.mutations
    for mutation in promise.mutations:
        source = (ROOT / mutation.file).read_text(encoding="utf-8")
        assert source.count(mutation.old) == 1, f"{mutation.file}: {mutation.old!r}"
        for test in mutation.tests:
            assert (ROOT / test.partition("::")[0]).exists()


def case(suite: Element, name: str, outcome: str | None = None, **properties: list[str]) -> None:
    made = SubElement(suite, "testcase", classname="tests.some", name=name)
    found = SubElement(made, "properties")
    for key, values in properties.items():
        for value in values:
            SubElement(found, "property", name=key, value=value)
    if outcome is not None:
        SubElement(made, outcome)


def test_counts_by_hand(tmp_path: Path) -> None:
    suite = Element("testsuite")
    case(suite, "plain", promise=["a"])
    case(suite, "many", promise=["a"], tried=["100"], held=["100"])
    case(suite, "broken", "failure", promise=["b"])
    case(suite, "some", "failure", promise=["b"], tried=["10"], held=["7"])
    case(suite, "late", "failure", promise=["c"], tried=["5"], held=["5"])  # what failed came after the count
    case(suite, "absent", "skipped", promise=["c"])
    case(suite, "other")
    ElementTree(suite).write(tmp_path / "report.xml")
    found = counted(tmp_path / "report.xml")
    assert (found["a"].tried, found["a"].held) == (101, 101)
    assert (found["b"].tried, found["b"].held) == (11, 7)
    assert found["b"].failed == ("tests.some::broken", "tests.some::some")
    assert (found["c"].tried, found["c"].held, found["c"].skipped) == (5, 4, ("tests.some::absent",))
    assert set(found) == {"a", "b", "c"}


def test_what_did_not_hold_stands_out() -> None:
    promise = Promise("a", "says", "injects", ())
    assert rows([promise], {"a": Tally(1000, 999)})[-1] == "| says | injects | 1,000 | **999** |"
    assert rows([promise], {"a": Tally(1000, 1000)})[-1] == "| says | injects | 1,000 | 1,000 |"


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(SystemExit, match="no promise nothing; there are"):
        chosen(["nothing"])
