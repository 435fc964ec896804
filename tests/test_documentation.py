"""The configurations, links and commands in README and docs are of this repository."""

import re
import tomllib
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from hetfed_lightning.cli.installed import GROUP
from hetfed_lightning.cli.run import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EVERY_COMMAND = {*COMMANDS, *PROJECT["entry-points"][GROUP]}

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def classes(value: Any) -> list[tuple[str, dict[str, Any]]]:
    """Every class that a configuration names, with its arguments."""
    if isinstance(value, list):
        return [found for one in value for found in classes(one)]
    if not isinstance(value, dict):
        return []
    own = [(value["class_path"], value.get("init_args", {}))] if "class_path" in value else []
    return own + [found for one in value.values() for found in classes(one)]


@each_page
def test_every_class_takes_what_a_configuration_gives_it(path: Path) -> None:
    for block in blocks(path, "yaml"):
        for name, arguments in classes(yaml.safe_load(block)):
            module, _, kind = name.rpartition(".")
            kinds = [one for one in getattr(import_module(module), kind).__mro__ if "__init__" in vars(one)]
            known = {key for one in kinds if one is not object for key in signature(one.__init__).parameters}
            assert set(arguments) <= known, f"{name} takes {', '.join(sorted(known))}"


@each_page
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (path.parent / target).exists()]


@each_page
def test_files_and_commands_are_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    files = re.findall(r"\b(?:configs|scripts|notebooks)/[\w./]+\.(?:yaml|py|sh|ipynb)", text)
    assert not [file for file in files if not (ROOT / file).exists()]
    assert not [word for word in re.findall(r"^hetfed (\w+)", text, re.MULTILINE) if word not in EVERY_COMMAND]
