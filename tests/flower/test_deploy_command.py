import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.flower import cli

ROOT = Path(__file__).resolve().parents[2]


def test_hetfed_is_told_of_it_by_an_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["hetfed_lightning.commands"] == {"deploy": f"{cli.__name__}:{cli.main.__name__}"}


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "flwr" else find_spec(name))
    with pytest.raises(ConfigError, match=r"needs flwr, .* pip install 'hetfed-lightning\[flower\]'"):
        cli.main(["keys", "deployment"])


def test_an_unknown_subcommand_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match="no command 'key'; did you mean 'keys'"):
        cli.main(["key"])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]], ids=["nothing", "long", "short"])
def test_the_help_names_every_subcommand(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in cli.COMMANDS)
