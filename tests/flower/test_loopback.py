"""Two sites and a coordinator as a user starts them: processes, TLS, keys, and the numbers of `hetfed fit`."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from hetfed_lightning.checkpointing.sealing import is_sealed
from hetfed_lightning.cli.run import run
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
"""Seconds, for a machine that does much else."""
OPERATED = ("/v1/control/list-runs", "/v1/control/start-run", "/v1/runtime/acquire-task", "/docs")
METRICS = ("train_loss", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class Ran:
    """A deployment that has been run.

    Attributes:
        code: Exit code of `hetfed deploy local`.
        output: What it said.
        folder: Of the run.
        seen: Its processes, while they lived.
        strangers: What the coordinator answered to whoever has no secret, by path.
        left: Its processes after its end.
        seconds: From the command to its end.
    """

    code: int
    output: str
    folder: Path
    seen: dict[int, str]
    strangers: dict[str, int]
    left: dict[int, str]
    seconds: float


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("loopback")
    config = str(write_config(folder / "small.yaml", NAMES, ROUNDS))
    deployment = folder / "deployment"
    hetfed(folder, "deploy", "init", config, "-o", str(deployment))
    began = time.monotonic()
    command = Command(folder, *HETFED, "deploy", "local", str(deployment))
    try:
        seen: dict[int, str] = {}
        strangers: dict[str, int] = {}
        while command.process.poll() is None and time.monotonic() - began < LIMIT:
            seen |= command.processes()
            if not strangers and (link := [said for said in seen.values() if "superlink.py" in said]):
                strangers = tried_by_a_stranger(link[0].partition(" --port ")[2].split()[0])
            time.sleep(0.2)
        code = command.wait(1)
        seconds = time.monotonic() - began
        left = command.processes() | {pid: said for pid, said in seen.items() if command_line(pid) == said}
    finally:
        command.end()
    return Ran(code, command.output, deployment / "runs" / "version_0", seen, strangers, left, seconds)


def tried_by_a_stranger(port: str) -> dict[str, int]:
    """Statuses of calls that show neither a secret nor a signature; none while nobody listens."""
    found: dict[str, int] = {}
    with httpx.Client(verify=False, base_url=f"https://127.0.0.1:{port}") as client, suppress(httpx.ConnectError):  # noqa: S501  # a stranger does not mind whom he calls
        for path in OPERATED:
            found[path] = client.post(path, headers={"content-type": "application/protobuf"}).status_code
    return found


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
    programs = ("superlink.py", "supernode.py", "engine.executor", "marks.py")
    for program in programs:
        assert any(program in said for said in ran.seen.values()), program
    nodes = [said for said in ran.seen.values() if "supernode.py" in said]
    assert all("--root-certificates" in said and "--auth-supernode-private-key" in said for said in nodes)
    assert all("--runtime-socket" in said and "--port" not in said for said in nodes)
    assert ran.left == {}


@pytest.mark.promise("operator")
def test_whoever_has_no_secret_operates_nothing(ran: Ran) -> None:
    assert ran.strangers == dict.fromkeys(OPERATED, 403)
    assert not any("--token" in said for said in ran.seen.values()), "command lines are read by everybody"
    assert ran.code == 0
    assert (ran.folder / "engine").stat().st_mode & 0o077 == 0
    assert (ran.folder / "sites").stat().st_mode & 0o077 == 0


def test_states_and_figures_are_those_of_one_fit(ran: Ran, tmp_path: Path) -> None:
    config = write_config(tmp_path / "small.yaml", NAMES, ROUNDS)
    assert run(["fit", "-c", str(config), f"--trainer.default_root_dir={tmp_path}"]) == 0
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    for name in NAMES:
        assert distance(state_of_site(ran.folder, name), state_of_fit(checkpoint, name)) <= 1e-6
    (there,) = tmp_path.rglob("record.json")
    for ours, theirs in zip(own_figures(ran.folder), own_figures(there.parent), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)


def own_figures(folder: Path) -> list[dict[str, float]]:
    """What was measured of each site in each round."""
    keys = [f"{metric}/{name}" for metric in METRICS for name in NAMES]
    return [{key: one["values"][key] for key in keys} for one in record_of(folder)["history"]]
