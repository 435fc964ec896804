import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from hetfed_lightning.cli import installed
from hetfed_lightning.cli.installed import GROUP
from tests.cli.commands import hetfed

ADDED = '''
from hetfed_lightning.cli.errors import ConfigError

def main(arguments):
    """Greets whom it is given."""
    if not arguments:
        raise ConfigError("greet: expected a name after it.")
    print("hello", *arguments)
    return 3

def silent(arguments):
    print("nothing to return")
'''


@pytest.fixture(autouse=True)
def _greet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three commands are installed; one cannot be imported."""
    (tmp_path / "greeting_for_test_installed.py").write_text(ADDED, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    commands = EntryPoints(
        EntryPoint(name, value, GROUP)
        for name, value in (
            ("greet", "greeting_for_test_installed:main"),
            ("silent", "greeting_for_test_installed:silent"),
            ("broken", "not_there_for_test_installed:main"),
        )
    )
    monkeypatch.setattr(installed, "entry_points", lambda group: commands.select(group=group))
    sys.modules.pop("greeting_for_test_installed", None)


def test_an_installed_command_gets_the_rest_and_says_how_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    ended = hetfed(capsys, "greet", "you", "--loud")
    assert (ended.code, ended.out) == (3, "hello you --loud\n")
    assert hetfed(capsys, "silent").code == 0


def test_its_errors_are_told_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    ended = hetfed(capsys, "greet")
    assert (ended.code, ended.err) == (2, "hetfed: error: greet: expected a name after it.\n")
    ended = hetfed(capsys, "broken")
    assert (ended.code, "not_there_for_test_installed" in ended.err) == (2, True)


def test_it_is_meant_by_hints_and_described_by_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'greet'" in hetfed(capsys, "gret").err
    assert "greeting_for_test_installed" not in sys.modules
    told = " ".join(hetfed(capsys, "--help").out.split())
    assert "greet Greets whom it is given." in told
    assert "broken not_there_for_test_installed:main, which cannot be imported." in told


def test_nothing_of_it_is_imported_by_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert hetfed(capsys, "--version").code == 0
    assert "greeting_for_test_installed" not in sys.modules
