"""What sites and the server read: strictly, by the allow-list, and with the file's name before every error."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from jsonargparse.typing import Path_fr
from safetensors.torch import load_file, save_file

from hetfed_lightning.cli.allowlist import restricted_imports
from hetfed_lightning.cli.configs import ConfigError
from hetfed_lightning.data import FederatedDataModule
from hetfed_lightning.flower.coordinator.server_config import ServerConfig, read_server_config
from hetfed_lightning.flower.files.initial_weights import load_start, start_bytes
from hetfed_lightning.flower.files.path_arguments import path_arguments
from hetfed_lightning.flower.files.paths import absolute, paths_in, with_paths
from hetfed_lightning.flower.site.site_config import SiteConfig, read_site_config
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.participants.participant import Participant
from tests.cli.commands import participant, put, tiny

SERVER: dict[str, Any] = {
    "sites": ["a", "b", "c"],
    "trainer": {"max_epochs": 3, "callbacks": [{"class_path": "hetfed_lightning.BackboneAveraging"}]},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files, in which the process is not."""
    monkeypatch.chdir(tmp_path)
    config = tiny(("hospital_a",))
    (tmp_path / "site").mkdir()
    (tmp_path / "pool.npz").rename(tmp_path / "site/pool.npz")
    (tmp_path / "site/site.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (tmp_path / "server.yaml").write_text(yaml.safe_dump(SERVER), encoding="utf-8")
    return tmp_path


def changed(path: Path, key: str, value: Any) -> Path:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    put(config, key, value)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


# A site


def test_a_site_is_read(folder: Path) -> None:
    site = read_site_config(folder / "site/site.yaml", "hospital_a")
    assert isinstance(site, SiteConfig)
    assert list(site.federation.members()) == ["hospital_a"]
    assert (site.trainer["max_epochs"], site.trainer["accelerator"]) == (1, "cpu")
    assert "callbacks" not in site.trainer
    assert [type(one) for one in site.callbacks] == [BackboneAveraging]
    assert len(site.data.load(("hospital_a",)).train) == 1  # Found beside the file, not in the working folder.
    L.Trainer(**site.trainer, callbacks=list(site.callbacks))


def test_two_readings_are_two_sites(folder: Path) -> None:
    first, second = (read_site_config(folder / "site/site.yaml", "hospital_a") for _ in range(2))
    assert first.federation["hospital_a"] is not second.federation["hospital_a"]
    one, other = (site.federation["hospital_a"].state_dict() for site in (first, second))
    assert all(torch.equal(one[key], other[key]) for key in one)  # From one seed.


def test_a_site_begins_with_the_weights_beside_it(folder: Path) -> None:
    path = folder / "site/site.yaml"
    drawn = read_site_config(path, "hospital_a").federation["hospital_a"].state_dict()
    save_file({key: tensor + 1 for key, tensor in drawn.items()}, folder / "site/start.safetensors")
    found = read_site_config(path, "hospital_a").federation["hospital_a"].state_dict()
    assert all(torch.equal(found[key], drawn[key] + 1) for key in drawn)


def test_another_participants_file_is_refused(folder: Path) -> None:
    words = r"site.yaml: model.participants: expected 'hospital_b' alone, .*, found hospital_a"
    with pytest.raises(ConfigError, match=words):
        read_site_config(folder / "site/site.yaml", "hospital_b")


SITE_FAULTS: dict[str, tuple[str, Any, str]] = {
    "a key": (
        "model.participants.hospital_a.init_args.local_epoch",
        2,
        r"(?s)_a'.*did you mean 'local_epochs'",
    ),
    "a class": ("trainer.callbacks.0.class_path", "os.system", r"'os.system' may not be named .* pass allow-import=os"),
    "a callback": (
        "trainer.callbacks.0.class_path",
        "lightning.pytorch.callbacks.RichProgressBar",
        r"trainer.callbacks.0: RichProgressBar does not run between institutions",
    ),
    "another file": ("trainer", "other.yaml", r"trainer: a configuration may not read another one"),
    "a value": ("data.init_args.batch_size", 0, r"batch_size: expected an integer of at least 1, got 0"),
    "a null": ("model.participants.hospital_a.init_args.backbone.init_args.out_features", None, r"'hospital_a': "),
}


@pytest.mark.parametrize(("key", "value", "words"), SITE_FAULTS.values(), ids=list(SITE_FAULTS))
def test_an_error_names_the_sites_file(folder: Path, key: str, value: Any, words: str) -> None:
    path = changed(folder / "site/site.yaml", key, value)
    with pytest.raises(ConfigError, match=words) as caught:
        read_site_config(path, "hospital_a")
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).count(str(path)) == 1


def test_yaml_is_read_strictly(folder: Path) -> None:
    path = folder / "site/site.yaml"
    path.write_text("seed_everything: 0\nseed_everything: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"site.yaml: the key 'seed_everything' stands in line 1 and again in line 2"):
        read_site_config(path, "hospital_a")
    with pytest.raises(ConfigError, match=r"gone.yaml: no such configuration file"):
        read_site_config(folder / "gone.yaml", "hospital_a")


# Weights


def test_weights_of_another_network_are_refused_by_key(folder: Path) -> None:
    path, start = folder / "site/site.yaml", folder / "site/start.safetensors"
    drawn = read_site_config(path, "hospital_a").federation["hospital_a"].state_dict()
    for found, words in (
        ({"head.weight": drawn["head.weight"]}, "'backbone.* the file lacks it"),
        (drawn | {"head.scale": torch.ones(1)}, "'head.scale': the file has it and the participant has not"),
        (drawn | {"head.weight": torch.ones(3, 4)}, r"'head.weight': expected shape \(3, 5\) .*, found \(3, 4\)"),
        (drawn | {"head.weight": drawn["head.weight"].double()}, r"and torch.float32, found .* and torch.float64"),
    ):
        save_file(dict(found), start)
        with pytest.raises(ConfigError, match=words):
            read_site_config(path, "hospital_a")
    start.write_bytes(start.read_bytes()[:40])
    with pytest.raises(ConfigError, match=r"start.safetensors: expected weights in safetensors' format"):
        read_site_config(path, "hospital_a")


def test_weights_that_share_memory_are_written(folder: Path) -> None:
    federation = read_site_config(folder / "site/site.yaml", "hospital_a").federation
    one = federation["hospital_a"]
    first, second = torch.nn.Linear(5, 5), torch.nn.Linear(5, 5)
    second.weight = first.weight
    one.head = torch.nn.Sequential(first, second)
    (folder / "tied").write_bytes(start_bytes(one))
    assert {"head.0.weight", "head.1.weight"} <= load_file(folder / "tied").keys()
    with torch.no_grad():
        first.weight.zero_()
    load_start(one, folder / "tied")
    assert first.weight.abs().sum() > 0
    assert second.weight is first.weight


# The server


def test_a_server_is_read(folder: Path) -> None:
    config = read_server_config(folder / "server.yaml")
    assert isinstance(config, ServerConfig)
    assert (config.sites, config.rounds, config.seed) == (("a", "b", "c"), 3, 0)
    assert (config.participation, config.min_participants) == (1.0, 1)
    assert (config.deadline, config.wait) == (3600.0, 600.0)
    assert [type(one) for one in config.callbacks] == [BackboneAveraging]
    assert (config.student, config.data) == (None, None)


def test_a_server_with_a_student_is_read(folder: Path) -> None:
    path = folder / "server.yaml"
    changed(path, "model", {"student": participant(), "seed": 4, "min_participants": 2})
    changed(path, "data", {"class_path": "hetfed_lightning.data.PublicDataModule", "init_args": {"path": "public"}})
    changed(path, "trainer.callbacks", [{"class_path": "hetfed_lightning.EnsembleDistillation"}])
    changed(path, "deadline", 30)
    config = read_server_config(path)
    assert (config.seed, config.min_participants, config.deadline) == (4, 2, 30.0)
    assert [type(one) for one in config.callbacks] == [EnsembleDistillation]
    assert config.student is not None
    assert config.data is not None
    assert config.data.path == str(folder / "public")  # type: ignore[attr-defined]
    drawn = config.student.state_dict()
    save_file({key: tensor + 1 for key, tensor in drawn.items()}, folder / "start.safetensors")
    student = read_server_config(path).student
    assert student is not None
    assert torch.equal(student.state_dict()["head.weight"], drawn["head.weight"] + 1)


SERVER_FAULTS: dict[str, tuple[str, Any, str]] = {
    "a key": ("deadlin", 3, r"deadlin: the server has no such setting; did you mean 'deadline'"),
    "a key of the model": ("model.participants", {}, r"model.participants: the server has no such setting"),
    "a key of the trainer": ("trainer.max_epoch", 3, r"'max_epoch'; did you mean 'max_epochs'"),
    "nobody": ("sites", [], r"sites: expected the participants' names, each once"),
    "somebody twice": ("sites", ["a", "a"], r"sites: expected the participants' names, each once"),
    "no rounds": ("trainer.max_epochs", 0, r"trainer.max_epochs: expected the number of rounds, at least 1, got 0"),
    "a fraction": ("model.participation", 1.5, r"model.participation: expected a fraction in \(0, 1\], got 1.5"),
    "a quorum": ("model.min_participants", 4, r"model.min_participants: expected at most 3, which is all of a, b, c"),
    "a stranger": ("model.joins_at", {"d": 2}, r"model.joins_at: no site 'd'"),
    "no time": ("deadline", 0, r"deadline: expected seconds, more than 0, got 0"),
    "no patience": ("wait", -1, r"wait: expected seconds, more than 0, got -1"),
    "a student without data": ("model.student", participant(), r"data: a student learns on a public set"),
    "a class": ("trainer.callbacks.0.class_path", "os.system", r"'os.system' may not be named by a configuration"),
    "a callback": (
        "trainer.callbacks.0.class_path",
        "hetfed_lightning.RunRecord",
        r"trainer.callbacks.0: RunRecord does not run between institutions",
    ),
    "a list": ("model", [1], r"model: expected seed, .*, got list"),
}


@pytest.mark.parametrize(("key", "value", "words"), SERVER_FAULTS.values(), ids=list(SERVER_FAULTS))
def test_an_error_names_the_servers_file(folder: Path, key: str, value: Any, words: str) -> None:
    path = changed(folder / "server.yaml", key, value)
    with pytest.raises(ConfigError, match=words) as caught:
        read_server_config(path)
    assert str(caught.value).startswith(f"{path}: ")


class Own(Participant):
    """Somebody's own."""


def test_a_class_of_the_users_own_has_to_be_allowed(folder: Path) -> None:
    path = changed(folder / "site/site.yaml", "model.participants.hospital_a.class_path", f"{__name__}.Own")
    refused = r"may not be named by a configuration.*allow-import=tests"
    for _ in range(2):  # What one file may name, the next may not.
        with pytest.raises(ConfigError, match=refused):
            read_site_config(path, "hospital_a")
        assert type(read_site_config(path, "hospital_a", ["tests"]).federation["hospital_a"]).__name__ == "Own"


# Paths


class Recordings(FederatedDataModule):
    """Annotates what is a path."""

    def __init__(self, tapes: dict[str, Path], labels: str | Path, path: str = "", copies: list[Path_fr] | None = None):
        super().__init__()


def test_paths_are_found_by_their_annotations(tmp_path: Path) -> None:
    settings = {"tapes": {"a": "x.wav"}, "labels": "l.csv", "path": "of the signal", "copies": ["1", "2"]}
    inner = {"class_path": f"{__name__}.Recordings", "init_args": settings}
    config: dict[str, Any] = {"class_path": "my.Module", "init_args": {"path": "p", "data": inner}}
    with restricted_imports([__name__]):
        found = with_paths(config, lambda path: absolute(path, tmp_path))["init_args"]
    own = found["data"]["init_args"]
    assert found["path"] == str(tmp_path / "p")
    assert own["tapes"] == {"a": str(tmp_path / "x.wav")}
    assert own["labels"] == str(tmp_path / "l.csv")
    assert own["path"] == "of the signal"
    assert own["copies"] == [str(tmp_path / "1"), str(tmp_path / "2")]
    with restricted_imports():  # What may not be named is not imported to look at it.
        assert path_arguments(f"{__name__}.Recordings") is None


def test_paths_are_found_by_their_keys(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "class_path": "my.Module",
        "init_args": {
            "path": {"a": "x.csv", "b": "/y.csv"},
            "image_folder": "images",
            "files": ["1", "2"],
            "target": "path",
            "data": {"class_path": "my.Other", "init_args": {"root": "~/r", "kind": "file"}},
        },
    }
    assert list(paths_in(config, ("data",))) == [
        ("data.init_args.path.a", "x.csv"),
        ("data.init_args.path.b", "/y.csv"),
        ("data.init_args.image_folder", "images"),
        ("data.init_args.files.0", "1"),
        ("data.init_args.files.1", "2"),
        ("data.init_args.data.init_args.root", "~/r"),
    ]
    found = with_paths(config, lambda path: absolute(path, tmp_path))
    assert found["init_args"]["path"] == {"a": str(tmp_path / "x.csv"), "b": "/y.csv"}
    assert found["init_args"]["data"]["init_args"]["root"] == str(Path.home() / "r")
    assert found["class_path"] == "my.Module"
    assert config["init_args"]["files"] == ["1", "2"]
