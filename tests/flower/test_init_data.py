"""At its site a participant has the examples, the batches and the weights that it has in one process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from hetfed_lightning.cli.groups import full_form, settings_by_member
from hetfed_lightning.data.loaders import LocalWork, RoundLoader
from hetfed_lightning.federation.federation import Federation
from hetfed_lightning.flower.coordinator.server_config import read_server_config
from hetfed_lightning.flower.site.site_config import SiteConfig, read_site_config
from tests.cli.test_every_config import write_images
from tests.flower.deployed import (
    CONFIGS,
    Local,
    deployed,
    local,
    read,
    same,
    same_state,
    same_tensors,
    tensors_in,
    weights,
)

QUICK = {"car_parks": 1, "cities": 1}
"""So many participants of a configuration, from the last, take a second each; all of all are slow."""


@dataclass
class Round:
    """A federation as a loader sees it in some round."""

    federation: Federation
    seed: int
    current_round: int
    batches_done: int = 0

    def active_names(self, round_index: int) -> list[str]:
        return self.federation.active_names(round_index)

    def work_of(self, name: str, round_index: int) -> LocalWork:
        return self.federation.work_of(name, round_index)

    def rounds_ahead(self) -> list[int]:
        return [self.current_round]

    def limit_batches(self, batches: int) -> int:
        return batches

    def expect_batches(self, batches: int) -> int:
        return batches


def batches(run: Local | SiteConfig, name: str, round_index: int) -> list[Tensor]:
    """A participant's batches of a round, one after another."""
    sources = {one: run.data.source(one) for one in run.federation.members()}
    loader = RoundLoader(sources, Round(run.federation, run.federation.seed, round_index))
    return tensors_in([batch[name] for batch in loader if name in batch])


def everyone(config: str) -> list[str]:
    return list(settings_by_member(full_form(read(CONFIGS / f"{config}.yaml"))["model"]["participants"]))


def cases() -> list[Any]:
    found = []
    for path in sorted(CONFIGS.glob("*.yaml")):
        names = everyone(path.stem)
        quick = names[len(names) - QUICK.get(path.stem, 0) :]
        found += [
            pytest.param(path.stem, name, id=f"{path.stem}-{name}", marks=[] if name in quick else [pytest.mark.slow])
            for name in names
        ]
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Deployments made so far, by configuration."""
    return {"": tmp_path_factory.mktemp("deployments")}


@pytest.fixture
def deployment(config: str, folders: dict[str, Path]) -> tuple[Path, Path]:
    """A deployment of a configuration and the file that it was made of."""
    root, path = folders[""], CONFIGS / f"{config}.yaml"
    if "folder:" in path.read_text(encoding="utf-8"):  # The images lie elsewhere on this machine, if anywhere.
        images = root / "images"
        images.mkdir(exist_ok=True)
        text = path.read_text(encoding="utf-8").replace("/usr/share/datasets/fashion-mnist", str(images))
        path = root / path.name
        path.write_text(
            text.replace("max_samples: 6000", "max_samples: 500").replace("public_size: 500", "public_size: 20")
        )
    if config not in folders:
        if path.parent == root:
            write_images(root / "images")
        folders[config] = deployed(path, root / config)
    return folders[config], path


@pytest.mark.parametrize(("config", "name"), cases())
def test_a_site_has_what_it_has_in_one_process(deployment: tuple[Path, Path], name: str) -> None:
    folder, path = deployment
    here = local("-c", str(path))
    site = read_site_config(folder / "sites" / name / "site.yaml", name)
    there, own = here.data.data, site.data.data
    assert list(own.train) == [name]
    for whole, part in ((there.train, own.train), (there.val, own.val), (there.test, own.test)):
        assert set(part) <= {name}
        assert same(whole.get(name), part.get(name))
    assert same(there.public, own.public)
    assert same(there.global_val, own.global_val)
    assert same(there.global_test, own.global_test)
    assert site.data.eval_batch_size == here.data.eval_batch_size
    for round_index in (0, 3):
        expected = batches(here, name, round_index)
        assert len(expected) > 1
        assert same_tensors(batches(site, name, round_index), expected)
    state = here.federation[name].state_dict()
    assert same_state(site.federation[name], dict(state))
    assert same_state(here.federation[name], weights(folder / "sites" / name / "start.safetensors"))


def test_the_student_begins_as_in_one_process(tmp_path: Path) -> None:
    path = str(CONFIGS / "digits_student.yaml")
    server = read_server_config(deployed("digits_student", tmp_path / "d") / "server" / "server.yaml")
    here = local("-c", path)
    assert server.student is not None
    assert here.federation.student is not None
    assert same_state(here.federation.student, dict(server.student.state_dict()))
    assert server.data is not None
    assert same(server.data.data.public, here.data.data.public)
    assert dict(server.data.data.train) == {}
