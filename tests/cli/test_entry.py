"""``hetfed`` before anything heavy is imported: its overview, its version, and the names of the package."""

import ast
import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import hetfed_lightning as hf
from hetfed_lightning._lazy import _TABLES
from hetfed_lightning.cli.allowlist import restrict_imports
from hetfed_lightning.cli.commands import COMMANDS, INSTALLED
from hetfed_lightning.logs.run_record import Record
from tests.cli.commands import hetfed

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "lightning", "torchmetrics", "numpy", "jsonargparse")
ASK = """
import json, sys
from hetfed_lightning.cli.run import run
code = run(sys.argv[1:])
print(json.dumps([code, [one for one in {heavy} if one in sys.modules]]))
"""


def imported_by(*arguments: str) -> tuple[str, list[str]]:
    """Output of a command that ran in a process of its own, and what it imported of ``HEAVY``."""
    program = ASK.format(heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    *out, last = done.stdout.splitlines()
    code, found = json.loads(last)
    assert code == 0, done.stderr
    return "\n".join(out), found


@pytest.mark.parametrize("word", ["--help", "-h", "--version"])
def test_it_answers_without_torch(word: str) -> None:
    told, found = imported_by(word)
    assert told
    assert found == []


def test_a_report_is_made_without_torch(tmp_path: Path) -> None:
    record = Record("digits", "1", rounds=1, finished=True, participants={"a": {"headline": "accuracy"}})
    record.test = {"test_accuracy/a": 0.5, "test_global_accuracy/a": 0.4}
    record.close_round(0, {"val_accuracy/a": 0.5, "federation/bytes_up": 12.0})
    record.write(tmp_path)
    _, found = imported_by("report", str(tmp_path), "-o", str(tmp_path / "page.html"))
    assert "0.500" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert {"torch", "lightning", "torchmetrics"}.isdisjoint(found)


def test_no_lazy_name_is_that_of_a_module() -> None:
    """Importing the module by itself would put it in the place of the name."""
    assert not [name for name in _TABLES for one in _TABLES[name].values() for it in one if find_spec(f"{name}.{it}")]


def test_the_overview_has_every_command_in_a_whole_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    told = " ".join(hetfed(capsys, "--help").out.split())
    for name, sentence in [*((name, one.sentence) for name, one in COMMANDS.items()), *INSTALLED.items()]:
        assert f"{name} {sentence}" in told
        assert sentence[0].isupper()
        assert sentence.endswith(".")
    assert hetfed(capsys).out == hetfed(capsys, "--help").out


def test_every_command_lies_where_the_table_says() -> None:
    for command in COMMANDS.values():
        assert not command.place or callable(command.load())


def test_names_of_the_package_are_those_that_type_checkers_see() -> None:
    tree = ast.parse((ROOT / "hetfed_lightning" / "__init__.py").read_text(encoding="utf-8"))
    typed = {
        name.name: node.module
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert {*typed, "__version__"} == set(hf.__all__) <= set(dir(hf))
    for name, module in typed.items():
        assert getattr(hf, name) is getattr(import_module(str(module)), name)


def test_a_parser_knows_every_class_without_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class is found by its short name among those that are imported."""
    for name in ("PrivateAveraging", "GenericAndPersonal"):
        monkeypatch.delitem(vars(hf), name, raising=False)
    restrict_imports()
    assert set(hf.__all__) <= set(vars(hf))


def test_modules_and_old_names_are_attributes_and_others_are_not() -> None:
    assert hf.data.__name__ == "hetfed_lightning.data"
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = hf.no_such_thing  # type: ignore[attr-defined]


FAKE = "class Registry(dict):\n    def register(self, name, strategy, description): self[name] = strategy\n"


@pytest.mark.parametrize("first", ["lightning", "hetfed_lightning"])
def test_lightning_is_told_the_strategy_whichever_is_imported_first(first: str, tmp_path: Path) -> None:
    """By a Lightning of nothing but a registry, which is imported in no time."""
    (tmp_path / "lightning" / "pytorch").mkdir(parents=True)
    (tmp_path / "lightning" / "__init__.py").write_text("from lightning import pytorch\n", encoding="utf-8")
    (tmp_path / "lightning" / "pytorch" / "__init__.py").touch()
    registry = f"{FAKE}StrategyRegistry = Registry()\n"
    (tmp_path / "lightning" / "pytorch" / "strategies.py").write_text(registry, encoding="utf-8")
    asked = "from lightning.pytorch.strategies import StrategyRegistry\nprint(*StrategyRegistry)"
    program = f"import {first}, hetfed_lightning, lightning\nassert lightning.__spec__.loader.path\n{asked}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["federated"]


@pytest.mark.slow
def test_lightning_makes_the_strategy() -> None:
    asked = "print(type(L.Trainer(strategy='federated', logger=False, enable_checkpointing=False).strategy).__name__)"
    program = f"import sys, hetfed_lightning\nassert 'torch' not in sys.modules\nimport lightning as L\n{asked}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "FederatedStrategy"
