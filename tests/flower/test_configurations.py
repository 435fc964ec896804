"""Shipped configurations, deployed: three rounds between sites give the numbers of ``hetfed fit`` of the same file."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.cli.run import run
from hetfed_lightning.flower.client_app import site_of
from hetfed_lightning.flower.init import init_command
from hetfed_lightning.flower.server_app import lead
from hetfed_lightning.logs.run_record import Record
from hetfed_lightning.participants.participant import participant_state
from tests.flower.deployed import CONFIGS
from tests.flower.grids import FakeGrid

pytestmark = pytest.mark.promise("parity")

ROUNDS = 3
BATCHES = 4
"""Batches of a pass: enough to part the two ways, if there is a difference, and half of the time of all."""


def deployed(config: str, folder: Path, *options: str) -> FakeGrid:
    """The sites that ``hetfed deploy init`` makes of a configuration."""
    init_command([config, "-o", str(folder), *options])
    sites = {}
    for path in sorted((folder / "sites").iterdir()):
        node = {"participant": path.name, "config": str(path / "site.yaml"), "state-dir": str(path / "state")}
        sites[path.name] = site_of(node, {})
    return FakeGrid(sites)


SHIFTED = """        public_transform: # Targets are those of the images as they are.
          class_path: hetfed_lightning.layers.RandomShift
          init_args: {max_pixels: 2}
"""
CHANGED = """        public_transform:
          - {class_path: hetfed_lightning.layers.RandomShift, init_args: {max_pixels: 2}}
          - {class_path: hetfed_lightning.layers.RandomCrop, init_args: {min_side: 0.7}}
          - {class_path: hetfed_lightning.layers.GaussianNoise, init_args: {std: 0.1}}
"""


def changing(config: str, folder: Path) -> str:
    """A configuration whose students learn from public examples that are changed in several ways."""
    text = Path(config).read_text(encoding="utf-8")
    assert text.count(SHIFTED) == 1
    path = folder / "changing.yaml"
    path.write_text(text.replace(SHIFTED, CHANGED), encoding="utf-8")
    return str(path)


def shortened(config: str, folder: Path) -> str:
    """A configuration of three rounds in which participants train one after another: fleets round otherwise."""
    text = Path(config).read_text(encoding="utf-8")
    found = [line for line in text.splitlines() if line.strip().startswith("max_epochs:")]
    assert len(found) == 1
    text = text.replace(found[0], f"  max_epochs: {ROUNDS}\n  limit_train_batches: {BATCHES}").replace(
        "\nmodel:\n", "\nmodel:\n  engine: sequential\n"
    )
    path = folder / Path(config).name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "config",
    [
        "hospitals",
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in ("digits", "cities", "digits_fedavg", "digits_student", "hospitals_distilled")
        ),
    ],
)
def test_three_rounds(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    same_both_ways(str(CONFIGS / f"{config}.yaml"), tmp_path, monkeypatch, caplog)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["digits", "digits_student"])
def test_public_examples_that_are_changed(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    same_both_ways(changing(str(CONFIGS / f"{config}.yaml"), tmp_path), tmp_path, monkeypatch, caplog)


def same_both_ways(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Three rounds between sites and in one process: states and figures."""
    path = shortened(config, tmp_path)
    grid = deployed(path, tmp_path / "deployment")
    with monkeypatch.context() as inside:
        inside.chdir(tmp_path)
        assert run(["fit", "-c", path, "--trainer.logger.init_args.save_dir", "runs"]) == 0
    package = logging.getLogger("hetfed_lightning")
    package.handlers.clear()
    monkeypatch.setattr(package, "propagate", True)
    with caplog.at_level(logging.INFO, logger=package.name):
        lead(grid, tmp_path / "deployment" / "server" / "server.yaml", tmp_path / "run", False)
    assert (
        caplog.messages[-1]
        == f"Logs: tensorboard --logdir {tmp_path / 'run'}\nReport: hetfed report {tmp_path / 'run'}"
    )
    assert caplog.messages[-2].startswith(("Nobody was measured", "\nValidation (own"))
    (checkpoint,) = (tmp_path / "runs").rglob("*.ckpt")
    state = read_checkpoint(checkpoint)["state_dict"]
    found: dict[str, Any] = json.loads((tmp_path / "run" / "record.json").read_text())
    assert found["finished"]
    folders = {name: Path(str(site._folder)) for name, site in grid.sites.items()}
    if (tmp_path / "run" / "student").exists():
        folders["student"] = tmp_path / "run" / "student"
    for name, folder in folders.items():
        (last,) = folder.rglob(f"round-{ROUNDS - 1:06d}-finished.ckpt")
        here = participant_state(read_checkpoint(last)["state_dict"], name, "site")
        there = participant_state(state, name, "fit")
        assert here.keys() == there.keys()
        difference = max(float((here[key].double() - there[key].double()).abs().max()) for key in here)
        assert difference <= 1e-6
    local, between = Record.read(next((tmp_path / "runs").rglob("record.json"))), Record.read(tmp_path / "run")
    assert [one["round"] for one in between.history] == [one["round"] for one in local.history]
    for one, other in zip(between.history, local.history, strict=True):
        # Bytes are counted where they pass; the coordinator has no data to measure a student on.
        told = {
            key: value
            for key, value in other["values"].items()
            if not key.startswith("federation/bytes") and not (key.startswith("val_") and key.endswith("/student"))
        }
        assert {key: one["values"][key] for key in told} == pytest.approx(told, abs=1e-6)
