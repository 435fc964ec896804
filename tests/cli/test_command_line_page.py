"""What docs/command_line.md tells a reader to type does what the page says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hetfed_lightning.cli.run import run
from tests.cli.commands import hetfed

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
BLOCKS = [block.splitlines() for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)]
QUICK = ["--trainer.fast_dev_run=1", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def block_with(command: str) -> list[list[str]]:
    """Words of each line of the block that has a command, without comments."""
    (found,) = [block for block in BLOCKS if any(line.startswith(command) for line in block)]
    return [shlex.split(line, comments=True) for line in found]


def section(title: str) -> str:
    """Text of the page below a heading."""
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_first_commands_work(capsys: pytest.CaptureFixture[str]) -> None:
    *light, fit = block_with("hetfed examples")
    for _, *words in light:
        ended = hetfed(capsys, *words)
        assert (ended.code, bool(ended.out)) == (0, True), ended.err
    assert Path("mine.yaml").is_file()
    ended = hetfed(capsys, *fit[1:], *QUICK)
    assert ended.code == 0, ended.err


def test_the_commands_for_help_show_it(capsys: pytest.CaptureFixture[str]) -> None:
    for _, *words in block_with("hetfed fit --help"):
        with pytest.raises(SystemExit, match="0"):
            hetfed(capsys, *words)
        assert len(capsys.readouterr().out) > 1000


def test_the_variables_are_taken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    *variables, (_, *words) = block_with("export HETFED_CONFIG")
    names = []
    for export, assignment in variables:
        name, _, value = assignment.partition("=")
        assert export == "export"
        monkeypatch.setenv(name, value)
        names.append(name)
    ended = hetfed(capsys, *words, *QUICK)
    assert ended.code == 0, ended.err
    assert f"From the environment: {', '.join(sorted(names))}" in ended.out


def test_the_program_of_ones_own_counts() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", section("A program of your own"), re.DOTALL)
    (words,) = re.findall(r"`(python audit.py count [^`]+)`", section("A program of your own"))
    names: dict[str, object] = {"__name__": "audit"}
    exec(program, names)  # noqa: S102
    assert run(words.split()[2:], names["AuditCLI"]) == 0  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_program_of_ones_own_is_a_program() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", section("A program of your own"), re.DOTALL)
    Path("audit.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "audit.py", "count", "-c", "hetfed:digits", "--least", "1000"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert re.search(r"^hospital_a \d+$", done.stdout, re.MULTILINE)
