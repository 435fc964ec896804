"""The script of ``hetfed completion``, run by bash as readline would."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from hetfed_lightning.cli.commands import COMMANDS
from hetfed_lightning.cli.completion import Options, help_of, options_in, script
from hetfed_lightning.cli.examples import examples
from tests.cli.commands import hetfed

HELP = """usage: hetfed fit [-c CONFIG]

options:
  -h, --help            Show this help.
  -c CONFIG, --config CONFIG
                        A file; --nothing is an option here.
  --model.engine {auto,vmap}
                        How. (default: auto)
  --threads THREADS     Threads.

Beside these: `--method NAME` trains otherwise.
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def completed(text: str, *words: str) -> list[str]:
    """Completions of the last of these words, which are cut as bash cuts them."""
    line = shlex.join(["hetfed", *words])
    program = f"{text}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}; _hetfed; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", program], check=True, capture_output=True, text=True)
    assert not done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def made() -> str:
    """A script of two commands."""
    return script({"fit": options_in(HELP), "deploy init": Options(["--force"])})


def test_options_are_those_that_the_help_describes() -> None:
    found = options_in(HELP)
    assert found.names == ["-h", "--help", "-c", "--config", "--model.engine", "--threads", "--method"]
    assert found.values == {"--model.engine": ["auto", "vmap"]}


def test_words_are_completed(made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").touch()
    assert completed(made, "") == [*COMMANDS, "deploy", "--help", "--version"]
    assert completed(made, "ex") == ["examples", "export"]
    assert completed(made, "fit", "--m") == ["--model.engine", "--method"]
    assert completed(made, "fit", "--model.engine", "") == ["auto", "vmap"]
    assert completed(made, "fit", "--model.engine", "=", "v") == ["vmap"]
    assert completed(made, "fit", "--model.engine", "=") == ["auto", "vmap"]
    assert completed(made, "fit", "--method", "fedpro") == ["fedproto", "fedprox"]
    assert completed(made, "fit", "-c", "") == ["mine.yaml", *(f"hetfed:{name}" for name in examples())]
    assert completed(made, "fit", "-c", "hetfed", ":") == list(examples())
    assert completed(made, "fit", "-c", "hetfed", ":", "dig") == [one for one in examples() if one.startswith("dig")]
    assert completed(made, "examples", "hosp") == ["hospitals", "hospitals_distilled"]
    assert completed(made, "deploy", "") == ["init", "keys", "coordinator", "site", "local"]
    assert completed(made, "deploy", "init", "--f") == ["--force"]
    assert completed(made, "test", "--x") == []


def test_the_help_of_fit_has_its_options() -> None:
    found = options_in(help_of("fit"))
    wanted = {"-c", "--config", "--trainer.max_epochs", "--model.participants", "--data", "--threads", "--ckpt_path"}
    assert wanted | {"--method", "--allow_import"} <= set(found.names)
    assert found.values["--model.engine"] == ["auto", "sequential", "vmap", "batched"]


@pytest.mark.slow
def test_the_command_prints_a_script_of_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    ended = hetfed(capsys, "completion", "bash")
    assert ended.code == 0
    for command in COMMANDS:
        if command != "completion":
            assert "--help" in completed(ended.out, command, "--"), command
    assert "--seeds" in completed(ended.out, "compare", "--se")
    assert completed(ended.out, "deploy", "keys", "--h") == ["--help", "--host"]
