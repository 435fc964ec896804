"""``hetfed deploy local`` from a configuration to its record, with the real processes, which are killed as well."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.flower.cli import main
from hetfed_lightning.flower.deploy.keys import make_keys
from hetfed_lightning.flower.deploy.local import site_config
from hetfed_lightning.flower.engine.control import RefusedError
from hetfed_lightning.flower.engine.executor import APP
from hetfed_lightning.flower.engine.local_engine import LocalEngine
from hetfed_lightning.flower.engine.marks import marked
from hetfed_lightning.flower.files.folder import SERVER, KeyFolder
from hetfed_lightning.logs.run_record import Record
from tests.cli.commands import tiny, written
from tests.flower.deployed import deployed

pytestmark = [pytest.mark.slow, pytest.mark.promise("restarts")]

SITES = ("hospital_a", "hospital_b")


def two_sites(folder: Path, rounds: int) -> Path:
    """A deployment of a federation that averages its backbones."""
    config = tiny(SITES)
    config["trainer"]["max_epochs"] = rounds
    return deployed(written(config), folder)


def set_rounds(deployment: Path, rounds: int) -> None:
    path = deployment / "server" / SERVER
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["trainer"]["max_epochs"] = rounds
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def steps_of(sites: Path, name: str) -> int:
    """Local steps in the newest state of a site: they are fewer if a head and its optimizer were lost."""
    newest = max(sites.glob(f"{name}/*/*.ckpt"), key=lambda path: path.name)
    steps: int = read_checkpoint(str(newest))["federation"]["steps"][name]
    return steps


def test_two_sites_two_rounds_and_one_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    deployment = two_sites(tmp_path / "deployment", rounds=2)
    assert main(["local", str(deployment)]) == 0
    said = capsys.readouterr().out
    assert "Round 1/2" in said
    assert "Round 2/2" in said
    assert "flwr" not in said
    run = deployment / "runs" / "version_0"
    assert list(run.glob("events.out.tfevents.*"))
    assert Record.read(run).finished
    assert len(Record.read(run).history) == 2

    set_rounds(deployment, 3)
    assert main(["local", str(deployment), "--resume"]) == 0
    said = capsys.readouterr().out
    assert "Round 1/" not in said
    assert "Round 3/3" in said
    assert len(Record.read(run).history) == 3
    assert not (deployment / "runs" / "version_1").exists()


def test_twenty_rounds_with_a_site_killed_twice_and_the_coordinator_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    deployment, run = two_sites(tmp_path / "deployment", rounds=20), tmp_path / "run"
    make_keys(deployment)
    told = {name: site_config(deployment, run, name) for name in SITES}
    config = {"config": str(deployment / "server" / SERVER), "run-dir": str(run)}
    with LocalEngine(run / "engine", told, keys=KeyFolder(deployment / "keys"), app=APP) as engine:

        def kill_site() -> None:
            engine.kill_node("hospital_a")
            assert len(engine.look_after()) == 1

        falls: dict[int, Callable[[], None]] = {4: kill_site, 9: kill_site, 14: engine.kill_superlink}
        said = followed(engine, deployment / "app", config, falls)
        assert "Round 20/20" not in said
        engine.restart_superlink()
        said = followed(engine, deployment / "app", {**config, "resume": True}, {})
        assert "Round 20/20" in said
    assert marked(engine.mark) == []
    record = Record.read(run)
    assert len(record.history) == 20
    missed = [entry for entry in record.left_out if entry["participant"] == "hospital_a"]
    assert len(missed) <= 2
    assert [entry for entry in record.left_out if entry["participant"] == "hospital_b"] == []
    steps = {name: steps_of(run / "sites", name) for name in SITES}
    assert steps["hospital_b"] % 20 == 0
    assert steps["hospital_a"] == steps["hospital_b"] // 20 * (20 - len(missed))


def followed(
    engine: LocalEngine, app: Path, config: Mapping[str, str | bool], falls: dict[int, Callable[[], None]]
) -> str:
    """What a run says until it ends or its SuperLink does; something befalls it when a round is done."""
    said = ""
    with engine.control() as control:
        run = control.start_run(app, config)
        try:
            for piece in control.logs(run):
                said += piece
                for current in [number for number in falls if f"Round {number}/" in said]:
                    falls.pop(current)()
        except RefusedError:
            assert not engine.superlink.process.is_alive, said
            return said
        outcome = control.outcome(run)
    assert outcome.is_success, (outcome, said)
    return said
