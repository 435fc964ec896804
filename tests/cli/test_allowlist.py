"""A configuration that somebody else wrote runs no code of its choice, and imports nothing to find that out."""

import ast
import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hetfed_lightning import methods
from hetfed_lightning.cli.allowlist import restrict_imports
from tests.cli.commands import Ended, hetfed, put, tiny, written

A = "model.participants.hospital_a"
CALLBACK = "trainer.callbacks.0"
DISTILLATION = {"class_path": "hetfed_lightning.EnsembleDistillation", "init_args": {}}
MARKER = "executed"
MODULE = "hostile_module"
PLACES = [
    A,
    *(f"{A}.init_args.{key}" for key in ("backbone", "head", "optimizer", "lr_scheduler", "task", "transform")),
    "model.student",
    CALLBACK,
    *(f"{CALLBACK}.init_args.{key}" for key in ("rule", "server_optimizer")),
    *(
        f"distillation:{CALLBACK}.init_args.{key}"
        for key in ("ensemble", "temperature", "weight", "optimizer", "public_transform")
    ),
    *(f"trainer.{key}" for key in ("logger", "strategy", "plugins", "profiler", "accelerator")),
    "data",
    "data.init_args.partition",
]
PAYLOADS = [
    "os.system",
    "subprocess.Popen",
    "runpy.run_path",
    "builtins.eval",
    "torch.hub.load",
    "torch.load",
    "lightning.pytorch.cli.instantiate_class",
    "lightning.pytorch.callbacks.model_checkpoint.os.system",
    "torch.nn.modules.module.torch.load",
    "hetfed_lightning.participants.participant.torch.load",
    "hetfed_lightning.cli.main",
    "hetfed_lightning.cli.run.os.system",
    f"{MODULE}.make",
    f"{MODULE}.Net",
]


@pytest.fixture(autouse=True)
def executions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What ran: calls of dangerous functions, and a module on the path whose very import leaves a mark."""
    calls: list[str] = []

    def recorder(name: str) -> Any:
        return lambda *arguments, **options: calls.append(name)

    for owner, name in ((os, "system"), (runpy, "run_path"), (torch.hub, "load"), (torch, "load")):
        monkeypatch.setattr(owner, name, recorder(name))
    # Popen stays as it is: torch, imported further by jsonargparse, starts programs of its own to look for libraries.
    (tmp_path / f"{MODULE}.py").write_text(
        f"from pathlib import Path\nimport torch\nPath({MARKER!r}).touch()\n"
        "class Net(torch.nn.Linear):\n    pass\n"
        "def make(*arguments, **options):\n    return Net(4, 5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield calls
    sys.modules.pop(MODULE, None)


def try_at(capsys: pytest.CaptureFixture[str], place: str, value: Any) -> Ended:
    config = tiny()
    if place.startswith("distillation:"):
        config["trainer"]["callbacks"] = [{"class_path": DISTILLATION["class_path"], "init_args": {}}]
    put(config, place.removeprefix("distillation:"), value)
    return hetfed(capsys, "fit", "-c", written(config), "--trainer.fast_dev_run", "1")


def check_refused(ended: Ended, executions: list[str]) -> None:
    assert (executions, Path(MARKER).exists(), MODULE in sys.modules) == ([], False, False)
    assert ended.code == 2
    assert "Traceback" not in ended.err


@pytest.mark.promise("config code")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("as_class", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["class_path", "dotted"])
def test_no_parameter_imports_a_module(
    capsys: pytest.CaptureFixture[str], executions: list[str], place: str, as_class: bool
) -> None:
    path = f"{MODULE}.Net"
    ended = try_at(capsys, place, {"class_path": path, "init_args": {"command": "x"}} if as_class else path)
    check_refused(ended, executions)
    if as_class:
        assert f"'{path}' may not be named by a configuration" in ended.err
        assert f"--allow_import {MODULE}" in ended.err


@pytest.mark.promise("config code")
@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize(
    "place", [f"{A}.init_args.transform", pytest.param(f"{CALLBACK}.init_args.rule", marks=pytest.mark.slow)]
)
def test_nothing_dangerous_can_be_named(
    capsys: pytest.CaptureFixture[str], executions: list[str], place: str, payload: str
) -> None:
    ended = try_at(capsys, place, payload)
    check_refused(ended, executions)
    assert payload in ended.err


def test_it_holds_for_overrides_and_other_commands(capsys: pytest.CaptureFixture[str], executions: list[str]) -> None:
    path = f"{MODULE}.Net"
    override = hetfed(capsys, "fit", "-c", written(tiny()), f"--{A}.backbone", path)
    check_refused(override, executions)
    assert "'hospital_a'" in override.err
    check_refused(hetfed(capsys, "fit", "-c", written(tiny()), "--trainer.logger", path), executions)
    config = tiny()
    put(config, f"{A}.init_args.backbone", {"class_path": path})
    check_refused(hetfed(capsys, "compare", "-c", written(config)), executions)
    export = ("--ckpt_path", "none.ckpt", "--participant", "hospital_a", "--output", "out")
    check_refused(hetfed(capsys, "export", "-c", written(config), *export), executions)


def test_what_is_allowed_by_name_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny()
    net = {"class_path": f"{MODULE}.Net", "init_args": {"in_features": 4, "out_features": 5}}
    for name in ("hospital_a", "hospital_b"):
        put(config, f"model.participants.{name}.init_args.backbone", net)
    ended = hetfed(capsys, "fit", "-c", written(config), "--allow_import", MODULE, "--trainer.fast_dev_run", "1")
    assert ended.code == 0, ended.err
    assert Path(MARKER).exists()


def test_everything_cannot_be_allowed() -> None:
    with pytest.raises(ValueError, match=r"\*"):
        restrict_imports(["*"])


REACHING = {
    *("builtins", "ctypes", "glob", "http", "importlib", "io", "multiprocessing", "os", "pathlib", "pickle", "pkgutil"),
    *("runpy", "shutil", "socket", "subprocess", "sys", "tempfile", "urllib", "zipfile"),
}
ACTING = {"__import__", "compile", "eval", "exec", "open", "torch.hub.load", "torch.load", "torch.save"}
METHODS = sorted(Path(methods.__path__[0]).rglob("*.py"))


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_methods_reach_nothing_outside_of_the_process(path: Path) -> None:
    """The folder is open as a whole: a file that needs one of these is closed one by one in `allowlist.CLOSED`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not {one.name.partition(".")[0] for one in node.names} & REACHING
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in REACHING
        elif isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ACTING, f"line {node.lineno}"
