"""A method in a file beside the configuration: it runs under `fit`, on two devices and between institutions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hetfed_lightning.data import Examples, FederatedData, FederatedDataModule
from hetfed_lightning.flower.coordinator.server_config import read_server_config
from hetfed_lightning.flower.init.own_code import listed_modules, own_modules
from hetfed_lightning.flower.site.site_config import read_site_config
from tests.cli.commands import put, tiny, written
from tests.flower.deployed import deployed
from tests.flower.loopback import Command, distance, hetfed, record_of, state_of_fit, state_of_site, write_config
from tests.methods import own_methods

CODE = Path(own_methods.__file__)
NAMES = ("clinic", "hospital")


def callbacks(module: str) -> list[dict[str, object]]:
    return [
        {"class_path": f"{module}.Prototypes", "init_args": {"pull": 0.5, "classes": 10}},
        {"class_path": f"{module}.ControlVariates"},
    ]


@pytest.fixture
def module() -> Iterator[str]:
    """Name of a module that no test before has imported."""
    yield "methods_of_mine"
    sys.modules.pop("methods_of_mine", None)


def test_code_beside_the_configuration_lies_in_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = tiny()
    put(config, "trainer.callbacks", callbacks(module))
    path = written(config).rename(tmp_path / "configs" / "config.yaml")
    code = tmp_path / "configs" / f"{module}.py"
    code.write_text(CODE.read_text())
    (tmp_path / "configs" / "nobody_allowed_me.py").write_text("")
    deployment = deployed(path, tmp_path / "deployment", "--allow_import", module, "--allow_import", "numpy")
    for folder in ("server", "sites/hospital_a", "sites/hospital_b"):
        assert (deployment / folder / f"{module}.py").read_text() == code.read_text()
    page = (deployment / "README.md").read_text()
    assert f"in every site's folder: {module}.py" in page.replace("\n", " ")
    assert "in one version: numpy." in page.replace("\n", " ")
    assert "- what Prototypes describes of its participant before training, and its messages" in page
    assert not list((deployment / "app").glob("*.py"))  # The engine sends what lies there.
    assert find_spec(module) is not None
    assert find_spec("nobody_allowed_me") is None
    # The copies are read where the original is not.
    code.unlink()
    del sys.modules[module]
    site = read_site_config(deployment / "sites" / "hospital_a" / "site.yaml", "hospital_a", [module])
    server = read_server_config(deployment / "server" / "server.yaml", [module])
    found = sys.modules[module].__file__
    assert found == str(deployment / "sites" / "hospital_a" / f"{module}.py")
    assert [type(one).__name__ for one in site.callbacks] == ["Prototypes", "ControlVariates"]
    assert [type(one).__name__ for one in server.callbacks] == ["Prototypes", "ControlVariates"]


class Tapes(FederatedDataModule):
    """A recording of each participant: numbers, the last column a class."""

    def __init__(self, tapes: Mapping[str, Path], batch_size: int = 8) -> None:
        super().__init__(batch_size=batch_size)
        self.tapes = tapes

    def load(self, participants: tuple[str, ...]) -> FederatedData:
        found = {name: torch.from_numpy(np.load(self.tapes[name])) for name in participants}
        sets: Any = {name: Examples(one[:, :-1].float(), one[:, -1].long()) for name, one in found.items()}
        return FederatedData(sets, {}, {}, None)


def test_data_of_a_users_own_are_found_by_the_annotation_of_their_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny()
    for place, name in enumerate(("hospital_a", "hospital_b")):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(place).integers(0, 3, (12, 5)))
    put(config, "trainer.callbacks", [{"class_path": "hetfed_lightning.BackboneAveraging"}])
    tapes = {name: f"{name}.npy" for name in ("hospital_a", "hospital_b")}
    config["data"] = {"class_path": f"{__name__}.Tapes", "init_args": {"tapes": tapes}}
    deployment = deployed(written(config), tmp_path / "deployment", "--allow_import", __name__)
    site = deployment / "sites" / "hospital_b" / "site.yaml"
    own = yaml.safe_load(site.read_text())["data"]["init_args"]["data"]["init_args"]
    assert own["tapes"] == {"hospital_b": str(tmp_path / "hospital_b.npy")}
    assert "data.init_args.data.init_args.tapes.hospital_b" in site.read_text()  # Among the paths to look at.
    (tmp_path / "hospital_b.npy").rename(site.parent / "mine.npy")
    site.write_text(site.read_text().replace(str(tmp_path / "hospital_b.npy"), "mine.npy"))
    monkeypatch.chdir("/")
    found = read_site_config(site, "hospital_b", [__name__])
    found.data.replace_data(found.data.load(("hospital_b",)))
    assert found.data.num_samples("hospital_b") == 12


def test_packages_are_copied_and_what_is_installed_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mine_in_parts"
    (package / "inner").mkdir(parents=True)
    for path in ("__init__.py", "inner/__init__.py", "inner/rules.py", "notes.txt"):
        (package / path).write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = own_modules(["mine_in_parts.inner.rules", "torch", "not_to_be_found"], [])
    assert sorted(found) == [f"mine_in_parts/{one}" for one in ("__init__.py", "inner/__init__.py", "inner/rules.py")]
    assert listed_modules(found) == ["mine_in_parts/"]


@pytest.mark.loopback
def test_one_process_two_devices_and_institutions_have_the_same_numbers(tmp_path: Path) -> None:
    config = write_config(tmp_path / "small.yaml", NAMES, 2)
    written_ = yaml.safe_load(config.read_text())
    written_["model"]["engine"] = "sequential"
    clipped = {"class_path": "mine.ClippedMean", "init_args": {"most": 0.01}}
    written_["trainer"]["callbacks"] = [callbacks("mine")[0], clipped, *written_["trainer"]["callbacks"][1:]]
    config.write_text(yaml.safe_dump(written_, sort_keys=False))
    (tmp_path / "mine.py").write_text(CODE.read_text())
    allowed, elsewhere = ("--allow_import", "mine"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    for devices in ("1", "2"):
        fit = Command(  # With a program's name, by which the second process is started.
            elsewhere, sys.executable, "-m", "hetfed_lightning", "fit", "-c", str(config), *allowed,
            "--trainer.devices", devices, "--trainer.default_root_dir", str(tmp_path / devices),
        )  # fmt: skip
        try:
            assert fit.wait(120) == 0, fit.output
        finally:
            fit.end()
    deployment = tmp_path / "deployment"
    hetfed(elsewhere, "deploy", "init", str(config), "-o", str(deployment), *allowed)
    hetfed(elsewhere, "deploy", "local", str(deployment))
    run = deployment / "runs" / "version_0"
    one, two = (max((tmp_path / devices).rglob("last.ckpt")) for devices in ("1", "2"))
    for name in NAMES:
        assert distance(state_of_fit(one, name), state_of_fit(two, name)) == 0
        assert distance(state_of_fit(one, name), state_of_site(run, name)) == 0
    alone, between = (record_of(folder)["history"][-1]["values"] for folder in (record_folder(tmp_path / "1"), run))
    counted = {key for key in alone if key.startswith("federation/bytes")}
    assert len(counted) == 6
    assert {key: alone[key] for key in counted} == {key: between[key] for key in counted}


def record_folder(folder: Path) -> Path:
    return next(folder.rglob("record.json")).parent
