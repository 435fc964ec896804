"""Two sites and a coordinator as a user starts them: processes, TLS, keys, and the numbers of `hetfed fit`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hetfed_lightning.checkpointing.sealing import is_sealed
from tests.flower.events import scalars
from tests.flower.loopback import (
    HETFED,
    Command,
    command_line,
    distance,
    hetfed,
    record_of,
    state_of_fit,
    state_of_site,
    write_config,
)

pytestmark = pytest.mark.loopback

NAMES = ("clinic", "hospital")
ROUNDS = 2
LIMIT = 150
"""Seconds, for a machine that does much else; 30 where it does not."""
METRICS = ("train_loss", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class Ran:
    """A deployment that has been run.

    Attributes:
        code: Exit code of `hetfed deploy local`.
        output: What it said.
        folder: Of the run.
        seen: Its processes, while they lived.
        left: Its processes after its end.
        fit: Checkpoint of `hetfed fit` of the same configuration.
        seconds: From the command to its end.
    """

    code: int
    output: str
    folder: Path
    seen: dict[int, str]
    left: dict[int, str]
    fit: Path
    seconds: float


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("loopback")
    config = str(write_config(folder / "small.yaml", NAMES, ROUNDS))
    deployment, fitted = folder / "deployment", folder / "fitted"
    hetfed(folder, "deploy", "init", config, "-o", str(deployment))
    began = time.monotonic()
    command = Command(folder, *HETFED, "deploy", "local", str(deployment))
    try:
        seen: dict[int, str] = {}
        while command.process.poll() is None and time.monotonic() - began < LIMIT:
            seen |= command.processes()
            time.sleep(0.2)
        code = command.wait(1)
        seconds = time.monotonic() - began
        left = command.processes() | {pid: said for pid, said in seen.items() if command_line(pid) == said}
    finally:
        command.end()
    hetfed(folder, "fit", "-c", config, f"--trainer.default_root_dir={fitted}")
    (checkpoint,) = fitted.rglob("last.ckpt")
    return Ran(code, command.output, deployment / "runs" / "version_0", seen, left, checkpoint, seconds)


def test_it_goes_through_and_says_where_everybody_stands(ran: Ran) -> None:
    assert ran.code == 0, ran.output
    assert "--insecure" not in ran.output
    for number in (1, 2):
        assert f"Round {number}/{ROUNDS} · 2 of 2 participants" in ran.output
    assert "INFO" not in ran.output, "lines of the engine are left out"
    assert ran.seconds < LIMIT


def test_both_rounds_are_recorded_with_the_figures_of_both_sites(ran: Ran) -> None:
    record = record_of(ran.folder)
    assert record["finished"]
    assert list(record["participants"]) == list(NAMES)
    assert [one["round"] for one in record["history"]] == [1, 2]
    assert record["left_out"] == []
    for one in record["history"]:
        assert {f"{metric}/{name}" for metric in METRICS for name in NAMES} <= one["values"].keys()


def test_tensorboard_shows_them(ran: Ran) -> None:
    found = scalars(ran.folder)
    for name in NAMES:
        assert list(found[f"val_accuracy/{name}"]) == [1, 2]
    assert list(found["federation/participants"].values()) == [2.0, 2.0]


def test_each_site_has_sealed_states_of_its_own(ran: Ran) -> None:
    for name in NAMES:
        files = sorted((ran.folder / "sites" / name).glob("*/*.ckpt"))
        assert files[-1].name == "round-000001-trained.ckpt"
        assert "round-000001-finished.ckpt" in [path.name for path in files]
        assert all(is_sealed(path) for path in files)


def test_every_process_was_there_and_none_is_left(ran: Ran) -> None:
    programs = ("superlink.py", "supernode.py", "engine.executor", "flwr-serverapp", "flower-superexec", "marks.py")
    for program in programs:
        assert any(program in said for said in ran.seen.values()), program
    nodes = [said for said in ran.seen.values() if "supernode.py" in said]
    assert all("--root-certificates" in said and "--auth-supernode-private-key" in said for said in nodes)
    assert ran.left == {}


@pytest.mark.parametrize("name", NAMES)
def test_states_are_those_of_one_fit(ran: Ran, name: str) -> None:
    assert distance(state_of_site(ran.folder, name), state_of_fit(ran.fit, name)) <= 1e-6


def test_figures_are_those_of_one_fit(ran: Ran) -> None:
    here, there = record_of(ran.folder), record_of(next(ran.fit.parent.parent.rglob("record.json")).parent)

    def own(record: dict[str, Any]) -> list[dict[str, float]]:
        keys = [f"{metric}/{name}" for metric in METRICS for name in NAMES]
        return [{key: one["values"][key] for key in keys} for one in record["history"]]

    for ours, theirs in zip(own(here), own(there), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)
