"""From one configuration, through the files of a deployment: sites end a run with the states that one fit ends with."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr")

import lightning as L

from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.cli.command import FederatedCLI
from hetfed_lightning.federation import Federation
from hetfed_lightning.flower.client_app import site_of
from hetfed_lightning.flower.init import init_command
from hetfed_lightning.flower.server_app import lead
from tests.cli.commands import tiny, written
from tests.flower.deployed import CONFIGS, deployed, read
from tests.flower.grids import FakeGrid

QUIET = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")


class FitCLI(FederatedCLI):
    """Trains as ``hetfed fit`` does, and writes nothing."""

    def instantiate_classes(self) -> None:
        made = self.parser.instantiate(self.config.clone())
        self.model = made.model
        settings = made.trainer.as_dict()
        callbacks = settings.pop("callbacks")
        kept = [one for one in callbacks if not isinstance(one, L.pytorch.callbacks.ModelCheckpoint)]
        trainer = L.Trainer(**settings | dict.fromkeys(QUIET, False), callbacks=kept)
        trainer.fit(self.model, datamodule=made.data)


def fitted(*configs: Path) -> Federation:
    return FitCLI([part for path in configs for part in ("-c", str(path))], run=False).model


def states(folder: Path, work: Path) -> dict[str, dict[str, Any]]:
    """Every participant's state after a run of a deployment, by name."""
    names = read(folder / "server/server.yaml")["sites"]
    sites = {
        name: site_of(
            {"participant": name, "config": str(folder / f"sites/{name}/site.yaml"), "state-dir": str(work / name)}, {}
        )
        for name in names
    }
    lead(FakeGrid(sites), folder / "server/server.yaml", work / "run", resume=False)
    found = {}
    for name in names:
        (last,) = sorted((work / name).rglob("*-finished.ckpt"))[-1:]
        prefix = f"participants.{name}."
        state = read_checkpoint(last)["state_dict"]
        found[name] = {key.removeprefix(prefix): one for key, one in state.items() if key.startswith(prefix)}
    return found


def check_parity(folder: Path, work: Path, *configs: Path) -> None:
    federation, found = fitted(*configs), states(folder, work)
    for name, participant in federation.members().items():
        own = participant.state_dict()
        assert found[name].keys() == own.keys()
        for key, tensor in own.items():
            assert torch.allclose(found[name][key].double(), tensor.double(), rtol=0, atol=1e-6, equal_nan=True), key


def test_a_deployment_ends_as_one_fit_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny()
    config["trainer"]["max_epochs"] = 2
    config["trainer"]["callbacks"].append(
        {"class_path": "hetfed_lightning.EnsembleDistillation", "init_args": {"mode": "mixed", "batch_size": 4}}
    )
    path = written(config)
    check_parity(deployed(path, Path("d")).absolute(), tmp_path / "work", path)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["digits", "hospitals", "cities"])
def test_configurations_end_as_one_fit_does(config: str, tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    more.write_text("trainer: {max_epochs: 3}\n", encoding="utf-8")
    path = CONFIGS / f"{config}.yaml"
    init_command([str(path), str(more), "-o", str(tmp_path / "d")])
    check_parity(tmp_path / "d", tmp_path / "work", path, more)
