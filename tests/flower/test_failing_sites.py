"""Sites that hang or do not work, with the real processes: they cost themselves a round, or end the run in time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.flower.engines import wait_until
from tests.flower.loopback import HETFED, Command, hetfed, record_of, set_server, write_config

pytestmark = pytest.mark.slow

NAMES = ("clinic", "hospital", "practice")
DEADLINE = 15.0
LATE = "no answer within 15 s (deadline)"


@contextmanager
def running(folder: Path, broken: Sequence[str] = (), **settings: Any) -> Iterator[Command]:
    """A deployment of three sites that runs, of whom two have to answer; the broken ones cannot."""
    config = write_config(folder / "small.yaml", NAMES, rounds=50)
    hetfed(folder, "deploy", "init", str(config), "-o", "deployment")
    set_server(folder / "deployment", {"model.min_participants": 2} | settings)
    for name in broken:
        (folder / "deployment" / "sites" / name / "site.yaml").write_text("model: none\n", encoding="utf-8")
    command = Command(folder, *HETFED, "deploy", "local", "deployment")
    try:
        yield command
    finally:
        for pid in command.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        command.end()


def signal_nodes(command: Command, names: tuple[str, ...], number: signal.Signals) -> None:
    """Have the SuperNodes of sites stand still, or go on."""
    nodes = {pid: said for pid, said in command.processes().items() if "supernode.py" in said}
    for name in names:
        (pid,) = [pid for pid, said in nodes.items() if f'participant="{name}"' in said]
        os.kill(pid, number)


def present(run: Path) -> list[float]:
    """How many took part in each round so far."""
    with suppress(OSError):
        return [one["values"]["federation/participants"] for one in record_of(run)["history"]]
    return []


def test_who_hangs_is_left_out_of_a_round_and_too_few_end_the_run(tmp_path: Path) -> None:
    run = tmp_path / "deployment" / "runs" / "version_0"
    with running(tmp_path, deadline=DEADLINE) as command:
        wait_until(lambda: len(present(run)) >= 1 or command.process.poll() is not None, 90, "a round")
        assert command.process.poll() is None, command.output

        signal_nodes(command, ("clinic",), signal.SIGSTOP)
        wait_until(lambda: "clinic is left out" in command.output, DEADLINE + 30, "clinic is given up")
        signal_nodes(command, ("clinic",), signal.SIGCONT)
        wait_until(lambda: 2.0 in present(run) and present(run)[-1] == 3.0, 60, "it takes part again")
        left = record_of(run)["left_out"]
        assert [one["participant"] for one in left] == ["clinic"] * len(left)
        assert left[0]["reason"] == LATE
        assert len(left) <= 2, "the round, and the next one if its late answer was still on its way"

        signal_nodes(command, ("clinic", "practice"), signal.SIGSTOP)
        began = time.monotonic()
        assert command.wait(DEADLINE + 45) == 1
        assert time.monotonic() - began < DEADLINE + 30
        said = command.output.splitlines()[-1]
        assert said.startswith("hetfed: error: Round ")
        assert "1 of 3 participants are left to go on with, min_participants=2 are needed" in said
        assert f"clinic: {LATE}; practice: {LATE}" in said
        wait_until(lambda: command.processes() == {}, 10, "everything ends")
    hetfed(tmp_path, "report", str(run), "-o", "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert LATE in page
    assert not record_of(run)["finished"]


def test_sites_that_do_not_work_end_the_run_before_it_begins(tmp_path: Path) -> None:
    with running(tmp_path, broken=("clinic", "practice"), wait=5.0) as command:
        assert command.wait(90) == 1
        said = command.output
    assert "clinic does not describe itself: its node reports an error" in said
    assert "1 sites are connected after 5 s, min_participants=2 are needed. Not there: clinic, practice" in said
