"""``hetfed deploy coordinator`` and ``site`` as programs: a site comes late, the coordinator ends and comes back."""

import http.client
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hetfed_lightning.flower.deploy.keys import make_keys
from hetfed_lightning.flower.engine.marks import descendants
from hetfed_lightning.flower.engine.settings import free_ports
from hetfed_lightning.logs.run_record import Record
from tests.flower.engines import ROOT, wait_until
from tests.flower.test_deploy_local import SITES, set_rounds, two_sites

pytestmark = [pytest.mark.slow, pytest.mark.promise("restarts")]

PROGRAM = [sys.executable, "-c", "from hetfed_lightning.cli import main; main()", "deploy"]


class Command:
    """``hetfed deploy ...`` as a program, and what it has said."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self._log = log
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with log.open("ab") as file:
            self.running = subprocess.Popen(
                [*PROGRAM, *arguments], cwd=log.parent, env=environment, stdout=file, stderr=file
            )

    @property
    def said(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def says(self, words: str, times: int = 1, seconds: float = 90) -> None:
        """Wait until it has said something so often."""
        wait_until(lambda: self.said.count(words) >= times, seconds, f"{words!r} in {self.said}")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.running.send_signal(number)
        return self.running.wait(timeout=30)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts commands, which are ended at the latest with the test."""
    started: list[Command] = []

    def start(name: str, *arguments: str) -> Command:
        started.append(Command(tmp_path / f"{name}.log", *arguments))
        return started[-1]

    yield start
    for one in started:
        if one.running.poll() is None:
            one.end()


def supernode_of(command: Command) -> int:
    """The number of the process that speaks to the coordinator."""
    return next(
        pid for pid in descendants(command.running.pid) if b"supernode.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def status(deployment: Path, port: int, path: str) -> int:
    """How the coordinator answers to a call that a proxy of its machine passes on from elsewhere."""
    context = ssl.create_default_context(cafile=str(deployment / "keys" / "ca.pem"))
    with closing(http.client.HTTPSConnection("127.0.0.1", port, context=context)) as call:
        call.request("POST" if "control" in path else "GET", path, headers={"X-Forwarded-For": "10.1.2.3"})
        with call.getresponse() as answer:
            return answer.status


def test_a_late_site_a_killed_node_and_a_coordinator_that_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[..., Command]
) -> None:
    monkeypatch.chdir(tmp_path)
    deployment = two_sites(tmp_path / "deployment", rounds=2)
    make_keys(deployment)
    (port,) = free_ports(1)

    def site(name: str) -> Command:
        options = ["--coordinator", f"127.0.0.1:{port}", "--ca", str(deployment / "keys" / "ca.pem")]
        options += ["--key", str(deployment / "keys" / f"{name}.key")]
        return start(name, "site", str(deployment / "sites" / name), *options)

    def coordinator(log: str, *options: str) -> Command:
        return start(log, "coordinator", str(deployment), "--port", str(port), *options)

    early = site(SITES[0])
    early.says("is not there yet")
    first = coordinator("first")
    early.says("Connected with the coordinator")
    late = site(SITES[1])
    assert first.running.wait(timeout=120) == 0, first.said
    assert "Round 2/2 · 2 of 2 participants" in first.said
    early.says("Done: round 2 closed")
    late.says("is lost")
    early.says("is lost")

    set_rounds(deployment, 500)
    second = coordinator("second", "--resume")
    second.says("Round 3/500 · 2 of 2 participants")
    assert status(deployment, port, "/health") == 200
    assert status(deployment, port, "/v1/control/list-runs") == 403
    connected = early.said.count("Connected with")
    os.kill(supernode_of(early), signal.SIGKILL)
    early.says("Connected with", connected + 1, seconds=40)  # and not after the minute that an absent node has
    assert second.end() == 128 + signal.SIGTERM

    set_rounds(deployment, len(Record.read(deployment / "runs" / "version_0").history) + 1)
    third = coordinator("third", "--resume")
    assert third.running.wait(timeout=120) == 0, third.said
    assert "2 of 2 participants" in third.said
    assert not (deployment / "runs" / "version_1").exists()
    assert [late.end(), early.end(signal.SIGINT)] == [0, 0]
    assert "Stopped" in early.said
