"""The configurations, code, links and commands in README, docs and the pages beside them are of this repository."""

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import hetfed_lightning as hf
from hetfed_lightning import aggregation, backbones, data, distillation
from hetfed_lightning.cli.commands import COMMANDS
from hetfed_lightning.cli.installed import GROUP

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
MOST_LINES = 120
"""Of the README: what does not fit into it belongs on a page of its own."""

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EVERY_COMMAND = {*COMMANDS, *PROJECT["entry-points"][GROUP]}
LIGHTNINGS_OPTIONS = {"--ckpt_path", "--config", "--help", "--print_config"}
MODULES = [hf, aggregation, backbones, data, distillation]
"""Where the short names in sentences are from."""

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(path: Path) -> list[str]:
    """What a page gives to a shell: lines of blocks, and code within sentences; a continued line is one."""
    text = path.read_text(encoding="utf-8")
    lines = "\n".join(blocks(path, "bash")).replace("\\\n", " ").splitlines()
    indented = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    inline = [found.replace("\n", " ") for found in re.findall(r"`([^`]+)`", prose(path))]
    return [line.split(" # ")[0].split("  #")[0].strip() for line in (*lines, *indented, *inline)]


def snippets(path: Path) -> Iterator[ast.AST]:
    """What a page says in Python: whole blocks, and code within sentences where that is an expression."""
    yield from map(ast.parse, blocks(path, "python"))
    for code in re.findall(r"`([^`]+)`", prose(path)):
        try:
            yield ast.parse(code.replace("\n", " "))
        except SyntaxError:
            continue  # a command, a file, an entry of YAML


def heading_ids(path: Path) -> set[str]:
    """Where links into a page lead, as GitHub makes them of its headings."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


def links(path: Path) -> list[tuple[Path, str]]:
    """The files that a page links to, and the heading in each, or nothing."""
    found = re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", prose(path))
    return [((path.parent / file).resolve() if file else path, heading) for file, heading in found]


def of_this_package(name: str) -> Callable[..., object] | None:
    """The class or function that a page means by ``name``, if it is one of this package's."""
    found = next((getattr(module, name) for module in MODULES if name in module.__all__), None)
    return found if callable(found) else None


def takes(called: Callable[..., object]) -> set[str]:
    """Names of what it may be called with, those that a base class takes included."""
    if not isinstance(called, type):
        return set(signature(called).parameters)
    own = [one.__init__ for one in called.__mro__ if "__init__" in vars(one) and one is not torch.nn.Module]  # type: ignore[misc]
    return {key for one in own for key in signature(one).parameters}


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
    blocks_of_files = "".join(blocks(path, "python"))
    for block in blocks(path, "yaml"):
        for name, arguments in classes(yaml.safe_load(block)):
            module, _, kind = name.rpartition(".")
            if f"# {module}.py\n" in blocks_of_files:
                continue  # An example that the page itself holds.
            known = takes(getattr(import_module(module), kind))
            assert set(arguments) <= known, f"{name} takes {', '.join(sorted(known))}"


@each_page
def test_code_names_what_is_there(path: Path) -> None:
    for snippet in snippets(path):
        for node in ast.walk(snippet):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hetfed_lightning"):
                assert not [one.name for one in node.names if not hasattr(import_module(str(node.module)), one.name)]
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hf":
                assert hasattr(hf, node.attr), f"hf.{node.attr}"


@each_page
def test_code_calls_things_with_what_they_take(path: Path) -> None:
    for snippet in snippets(path):
        for call in (node for node in ast.walk(snippet) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func).removeprefix("hf.")
            called = of_this_package(name)
            if called is not None:
                given = {keyword.arg for keyword in call.keywords if keyword.arg}
                assert given <= takes(called), f"{name} takes {', '.join(sorted(takes(called)))}"


@each_page
def test_dotted_names_lead_somewhere(path: Path) -> None:
    for name in set(re.findall(r"\bhetfed_lightning((?:\.[A-Za-z_]\w*)+)(?![\w./])", path.read_text(encoding="utf-8"))):
        found: Any = hf
        for part in name[1:].split("."):
            if not hasattr(found, part):
                import_module(f"{found.__name__}.{part}")
            found = getattr(found, part)


@each_page
def test_links_lead_somewhere(path: Path) -> None:
    for target, heading in links(path):
        assert target.exists(), target
        assert not heading or heading in heading_ids(target), f"{target} has no heading {heading!r}"


def test_every_page_is_found_from_the_readme() -> None:
    found, left = {README}, [README]
    while left:
        new = {target for target, _ in links(left.pop()) if target.suffix == ".md" and target.exists()} - found
        found |= new
        left += new
    assert not [page.name for page in PAGES if page not in found]


@each_page
def test_files_are_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    files = re.findall(r"\b(?:configs|scripts|notebooks|tests)/[\w./]+\.(?:yaml|py|sh|ipynb)", text)
    assert not [file for file in files if not (ROOT / file).exists()]


@each_page
def test_paths_in_the_package_are_there(path: Path) -> None:
    # Other pages name folders that runs and deployments write.
    pattern = r"`((?:\w+/)+(?:\w+\.py)?)`" if path.stem == "architecture" else r"`((?:\w+/)+\w+\.py)`"
    named = re.findall(pattern, prose(path))
    assert not [one for one in named if not any((top / one).exists() for top in (ROOT, ROOT / "hetfed_lightning"))]


@each_page
def test_commands_are_there_with_their_options(path: Path) -> None:
    sources = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "hetfed_lightning").rglob("*.py"))
    for line in commands(path):
        program, *words = line.split() or [""]
        if program == "hetfed" and words and words[0].isalpha():
            assert words[0] in EVERY_COMMAND, line
            known = sources
        elif program == "python" and words and words[0].startswith("scripts/"):
            known = (ROOT / words[0]).read_text(encoding="utf-8")
        else:
            continue
        options = {word for word in words if re.fullmatch(r"--[a-z_-]+", word)}
        assert not [one for one in options - LIGHTNINGS_OPTIONS if f'"{one}"' not in known], line


def test_the_readme_is_short_and_begins_with_what_it_is() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    table, pages = "| alone | federation | pooled |", "| I want to ... |"
    order = ["\n**", "\n![", "scripts/demo.sh", "scripts/test.sh", table, "```python", pages]
    places = [text.find(part) for part in order]
    assert -1 not in places
    assert places == sorted(places)


def test_the_readmes_program_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (program,) = blocks(README, "python")
    assert "max_epochs=20" in program
    exec(program.replace("max_epochs=20", "max_epochs=1, limit_train_batches=2, logger=False"), {})  # noqa: S102
