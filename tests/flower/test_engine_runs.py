"""A run as a user starts it: to its end, to its failure, and to signals, after all of which nothing is left."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hetfed_lightning.flower.engine.marks import end_marked, marked
from tests.flower.engines import ROOT, rounds, wait_until

pytestmark = pytest.mark.slow


class Driven:
    """The program that runs an engine, and what it said."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.said, self.complained = folder / "said", folder / "complained"
        with self.said.open("wb") as said, self.complained.open("wb") as complained:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.flower.drive_engine", str(folder / "deployment"), *arguments],
                stdout=said, stderr=complained, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self.said.read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        return self.complained.read_text(encoding="utf-8")

    def mark(self) -> str:
        wait_until(lambda: "MARK" in self.output or self.process.poll() is not None, 60, "the engine is started")
        found = re.search(r"MARK (\w+)", self.output)
        assert found, self.errors
        return found[1]


@contextmanager
def driven(folder: Path, *arguments: str) -> Iterator[Driven]:
    """Leaves nothing behind, whatever the test finds."""
    folder.mkdir(exist_ok=True)
    program = Driven(folder, *arguments)
    try:
        yield program
    finally:
        with suppress(ProcessLookupError):
            program.process.kill()
        program.process.wait()
        if "MARK" in program.output:
            end_marked(program.mark())


def test_two_runs_side_by_side_go_through_and_leave_nothing(tmp_path: Path) -> None:
    with driven(tmp_path / "one", "encrypted") as one, driven(tmp_path / "two", "plain", "rounds=2") as two:
        assert (one.process.wait(120), two.process.wait(120)) == (0, 0), one.errors + two.errors
        for program, count, names in ((one, 3, ["clinic", "hospital"]), (two, 2, ["", ""])):
            told = rounds(program.output)
            assert [each["answered"] for each in told] == [["clinic", "hospital"]] * count
            assert all(each["warm"] for each in told), "the package was imported before the message came"
            assert f"NODES {names}".replace("'", '"') in program.output
            assert "flwr-serverapp" not in program.output
            assert marked(program.mark()) == []
    engine = tmp_path / "one" / "deployment" / "engine"
    for name in ("superlink", "clinic", "hospital"):
        assert (engine / f"{name}.log").stat().st_size > 0


def test_a_run_that_fails_ends_with_its_sentence(tmp_path: Path) -> None:
    with driven(tmp_path / "run", "encrypted", "rounds=1", 'fail="too few sites replied: clinic"') as program:
        assert program.process.wait(120) == 1
        assert program.errors.splitlines()[-1] == "hetfed: error: too few sites replied: clinic"
        assert marked(program.mark()) == []


@pytest.mark.parametrize(
    ("number", "code", "seconds"),
    [(signal.SIGINT, 128 + signal.SIGINT, 12), (signal.SIGTERM, 128 + signal.SIGTERM, 12), (signal.SIGKILL, -9, 10)],
    ids=["interrupted", "terminated", "killed"],
)
def test_nothing_outlives_it(tmp_path: Path, number: signal.Signals, code: int, seconds: float) -> None:
    with driven(tmp_path / "run", "encrypted", "rounds=1000") as program:
        wait_until(lambda: bool(rounds(program.output)), 90, "a round")
        mark = program.mark()
        # SuperLink, two SuperNodes, the executor, its process for each of the three, and the run.
        assert len(marked(mark)) >= 8
        started = time.monotonic()
        program.process.send_signal(number)
        assert program.process.wait(seconds) == code, program.errors
        wait_until(lambda: marked(mark) == [], seconds, f"everything ends: {marked(mark)}")
        assert time.monotonic() - started < seconds


def test_a_superlink_that_ends_is_told_with_its_log(tmp_path: Path) -> None:
    with driven(tmp_path / "run", "encrypted", "rounds=1000") as program:
        wait_until(lambda: bool(rounds(program.output)), 90, "a round")
        (link,) = [pid for pid in marked(program.mark()) if _command(pid).endswith("superlink.py")]
        os.kill(link, signal.SIGKILL)
        assert program.process.wait(20) == 1
        assert re.search(r"error: the SuperLink ended while the run went on, see .*superlink.log", program.errors)
        assert marked(program.mark()) == []


def _command(pid: int) -> str:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return words[2].decode() if len(words) > 2 else ""
    return ""
