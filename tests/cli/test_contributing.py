"""Every example of CONTRIBUTING.md runs as a file of a user's own, and passes the contract as a file of the package."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import QUIET, hetfed

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```(?:python|yaml)\n# (\w+\.(?:py|yaml))\n(.*?)```", TEXT, re.DOTALL))
"""Content of each example that begins with the name of its file."""
MODULES = [name.removesuffix(".py") for name in FILES if name.endswith(".py")]
LAID_OVER = [name for name in FILES if name.endswith(".yaml") and name != "small.yaml"]
QUICK = [f"--trainer.{key}={str(value).lower()}" for key, value in QUIET.items() if key != "max_epochs"]

IN_THE_PACKAGE = {
    "midrange": ("aggregation", "tests/aggregation/test_every_rule.py"),
    "midrange_probabilities": ("distillation", "tests/distillation/test_every_ensemble.py"),
    "powers": ("backbones", "tests/backbones/test_backbone_contract.py"),
    "focal": ("tasks", "tests/test_every_task.py"),
    "ordinal": ("tasks", "tests/test_every_task.py"),
}
"""Where CONTRIBUTING.md says that an example belongs, and which tests find it there."""

FEWEST = 8
"""Tests of a contract; less would mean that the walk has hardly looked at it."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with all examples; what was imported from it is forgotten afterwards."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for module in MODULES:
        sys.modules.pop(module, None)


WITHOUT: dict[str, tuple[float, float]] = {}
"""Figures without an example, once a test has trained for them: every test compares with the same."""


def trained(capsys: pytest.CaptureFixture[str], *files: str) -> str:
    configs = [argument for name in files for argument in ("-c", name)]
    allowed = [argument for module in MODULES for argument in ("--allow_import", module)]
    ended = hetfed(capsys, "fit", *configs, *allowed, *QUICK)
    assert ended.code == 0, ended.err
    return ended.out


def figures(out: str) -> dict[str, tuple[float, float]]:
    """Headline metric and loss on each one's own validation set, from the table at the end of a fit."""
    rows = re.findall(r"^(left|right|mean) +(0\.\d+) +(0\.\d+)", out, re.MULTILINE)
    return {name: (float(metric), float(loss)) for name, metric, loss in rows}


def test_the_page_has_an_example_of_each_kind() -> None:
    assert {"two_moons", "prototypes", "leaning_heads", "anchored", "mean_ordinal", *IN_THE_PACKAGE} == set(MODULES)
    for where, who in IN_THE_PACKAGE.values():
        assert re.search(rf"`hetfed_lightning/{where}/`.*`{who}`", TEXT)


def test_a_data_source_trains(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accuracy, loss = figures(trained(capsys, "small.yaml"))["mean"]
    assert accuracy > 0.7  # chance is a half
    assert loss < 0.6


@pytest.mark.parametrize("name", LAID_OVER)
def test_an_example_trains_and_makes_a_difference(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_example = figures(trained(capsys, "small.yaml", name))
    if not WITHOUT:
        WITHOUT.update(figures(trained(capsys, "small.yaml")))
    assert with_example != WITHOUT
    # Focal losses are of another size, and grades have another headline; what else is learned is no worse than chance.
    assert with_example["left"][0] > 0.5 or name == "ordinal.yaml"


@pytest.mark.slow  # Seventeen seconds: all contracts for each example; that they train is tested above.
def test_as_files_of_the_package_they_pass_the_contracts(tmp_path: Path) -> None:
    # Each package looks for modules in a second folder too, as if the example had been put beside the others.
    packages = sorted({package for package, _ in IN_THE_PACKAGE.values()})
    for module, (package, _) in IN_THE_PACKAGE.items():
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / f"{module}.py").write_text(FILES[f"{module}.py"], encoding="utf-8")
    lines = [
        f"import hetfed_lightning.{one} as {one}; {one}.__path__.append({str(tmp_path / one)!r})" for one in packages
    ]
    (tmp_path / "second_folder.py").write_text("\n".join(lines), encoding="utf-8")
    classes = [
        name for one in IN_THE_PACKAGE for name in re.findall(r"^(?:class|def) (\w+)", FILES[f"{one}.py"], re.MULTILINE)
    ]
    tests = sorted({path for _, path in IN_THE_PACKAGE.values()})
    command = [sys.executable, "-m", "pytest", "-n0", "-v", "-p", "second_folder", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [*command, "-k", " or ".join([*classes, "walk"]), *tests],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    for name in classes:
        assert len(re.findall(rf"\[{name}\b.*PASSED|\[.*-{name}\b.*PASSED", ended.stdout)) >= FEWEST, name
