"""The same app in the engine's simulation, whose nodes have numbers alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hetfed_lightning.cli.run import run
from hetfed_lightning.flower.client_app import NodeConfigError, site_of
from hetfed_lightning.flower.init import init_command
from tests.flower.loopback import distance, set_server, state_of_fit, write_config
from tests.flower.simulated import simulate

NAMES = ("north", "east", "south")
ROUNDS = 2


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    folder = tmp_path / "deployment"
    init_command([str(write_config(tmp_path / "small.yaml", NAMES, ROUNDS)), "-o", str(folder)])
    return folder


@pytest.mark.slow
def test_every_site_has_a_node_and_the_numbers_are_those_of_one_fit(deployment: Path, tmp_path: Path) -> None:
    backend = simulate(deployment, len(NAMES))
    assert set(backend.asked) == {0, 1, 2}
    record = json.loads((deployment / "run" / "record.json").read_text(encoding="utf-8"))
    assert record["finished"]
    assert list(record["participants"]) == list(NAMES), "the order of the configuration, not that of the nodes"
    assert record["left_out"] == []
    options = [f"--trainer.default_root_dir={tmp_path / 'fit'}", "--trainer.logger=false"]
    assert run(["fit", "-c", str(tmp_path / "small.yaml"), "--model.engine=sequential", *options]) == 0
    (fitted,) = (tmp_path / "fit").rglob("last.ckpt")
    for name in NAMES:
        (last,) = (deployment / "sites" / name / "state").glob(f"*/round-{ROUNDS - 1:06d}-finished.ckpt")
        assert distance(state_of_fit(last, name), state_of_fit(fitted, name)) <= 1e-6


def test_a_node_too_many_is_told_and_costs_nothing(
    deployment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_server(deployment, {"trainer.max_epochs": 1})
    simulate(deployment, len(NAMES) + 1, **{"state-dir": str(tmp_path / "states")})
    assert "the simulation has a node 3, but there are 3 sites" in capsys.readouterr().out
    assert json.loads((deployment / "run" / "record.json").read_text(encoding="utf-8"))["left_out"] == []
    assert sorted(path.parent.parent.name for path in (tmp_path / "states").glob("*/state/*")) == sorted(NAMES)


@pytest.mark.slow
def test_a_node_too_few_is_gone_on_without_by_name(deployment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_server(deployment, {"trainer.max_epochs": 1, "wait": 1.0})
    simulate(deployment, len(NAMES) - 1)
    assert "Going on without south, not there after 1 s." in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("node", "settings", "reason"),
    [
        ({"partition-id": 3}, {"sites": "sites"}, "node 3, but there are 3 sites"),
        ({"partition-id": 0}, {}, "no 'participant'"),
        ({}, {"sites": "sites"}, "no 'participant'"),
    ],
)
def test_a_node_that_is_nobodys(node: dict[str, int], settings: dict[str, str], reason: str, deployment: Path) -> None:
    settings = {key: str(deployment / value) for key, value in settings.items()}
    with pytest.raises(NodeConfigError, match=reason):
        site_of(node, settings)
