from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hetfed_lightning.checkpointing.reading import read_checkpoint
from tests.cli.commands import hetfed, made_once, participant, put, tiny, written

CAPSYS = pytest.CaptureFixture[str]
BACKBONES = "participants.{}.backbone."


def newcomer(**init_args: Any) -> dict[str, Any]:
    return {"trainer": {"max_epochs": 1}, "model": {"participants": {"hospital_c": participant(**init_args)}}}


@pytest.fixture
def run_folder(capsys: CAPSYS, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two hospitals that average, teach each other and saved a checkpoint beside their configuration."""
    config = tiny()
    put(config, "trainer.enable_checkpointing", True)
    put(
        config,
        "trainer.logger",
        {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs"}},
    )
    config["trainer"]["callbacks"] += [
        {
            "class_path": "hetfed_lightning.EnsembleDistillation",
            "init_args": {"ensemble": "hetfed_lightning.distillation.ClassPriorWeighted"},
        },
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"filename": "last"}},
    ]

    def run() -> None:
        assert hetfed(capsys, "fit", "-c", written(config)).code == 0

    made_once("two_who_distil", run, tmp_path_factory)
    return next(Path("runs").rglob("last.ckpt")).parent


def state_of(checkpoint: dict[str, Any], name: str) -> dict[str, torch.Tensor]:
    prefix = f"participants.{name}."
    return {key: tensor for key, tensor in checkpoint["state_dict"].items() if key.startswith(prefix)}


def test_a_newcomer_joins_everyone_goes_on_and_one_leaves(capsys: CAPSYS, run_folder: Path) -> None:
    trained = read_checkpoint(run_folder / "last.ckpt")
    config = newcomer(transfer={"frozen_rounds": 1, "distillation_epochs": 1})
    ended = hetfed(capsys, "join", "--ckpt_path", run_folder / "last.ckpt", "-c", written(config, "new.yaml"))
    assert ended.code == 0, ended.err
    assert "hospital_c joins hospital_a, hospital_b of" in ended.out
    assert "takes over 4 shared tensors from hospital_a, hospital_b and 1 passes" in ended.out
    joined = read_checkpoint("joined/federation.ckpt")
    for name in ("hospital_a", "hospital_b"):
        assert all(torch.equal(tensor, joined["state_dict"][key]) for key, tensor in state_of(trained, name).items())
    assert list(joined["federation"]["optimizers"]) == ["hospital_a", "hospital_b", "hospital_c"]
    assert len(joined["optimizer_states"]) == 3

    ended = hetfed(
        capsys, "fit", "-c", "joined/config.yaml", "--ckpt_path", "joined/federation.ckpt", "--trainer.max_epochs", "2"
    )
    assert ended.code == 0, ended.err
    assert "hospital_a, hospital_b, hospital_c: backbone" in ended.out

    ended = hetfed(
        capsys, "leave", "--ckpt_path", "joined/federation.ckpt", "--participant", "hospital_a", "--output", "left"
    )
    assert ended.code == 0, ended.err
    left = read_checkpoint("left/federation.ckpt")
    assert not names_in(left, "hospital_a")
    assert names_in(joined, "hospital_a"), "the search finds what is there"
    ended = hetfed(
        capsys, "fit", "-c", "left/config.yaml", "--ckpt_path", "left/federation.ckpt", "--trainer.max_epochs", "2"
    )
    assert ended.code == 0, ended.err
    assert "hospital_b, hospital_c: backbone" in ended.out


def names_in(value: Any, name: str) -> list[str]:
    """Keys and words in a checkpoint that speak of a participant."""
    if isinstance(value, dict):
        keys = [key for key in value if isinstance(key, str) and name in key]
        return keys + [word for one in value.values() for word in names_in(one, name)]
    if isinstance(value, (list, tuple)):
        return [word for one in value for word in names_in(one, name)]
    return [value] if isinstance(value, str) and name in value else []


def test_the_shared_state_stays_with_its_group(capsys: CAPSYS, run_folder: Path) -> None:
    assert (
        hetfed(capsys, "join", "--ckpt_path", run_folder / "last.ckpt", "-c", written(newcomer(), "new.yaml")).code == 0
    )
    before, after = read_checkpoint(run_folder / "last.ckpt"), read_checkpoint("joined/federation.ckpt")
    key = next(key for key in before["callbacks"] if "BackboneAveraging" in key)
    shared = before["callbacks"][key]["shared"]["hospital_a|hospital_b"]
    moved = after["callbacks"][key]["shared"]["hospital_a|hospital_b|hospital_c"]
    assert all(torch.equal(tensor, moved[name]) for name, tensor in shared.items())


def test_a_new_architecture_joins_by_what_it_is_taught(capsys: CAPSYS, run_folder: Path) -> None:
    backbone = {
        "class_path": "hetfed_lightning.backbones.MLPBackbone",
        "init_args": {"in_features": 4, "hidden": [3], "out_features": 5},
    }
    plain = written(newcomer(backbone=backbone), "new.yaml")
    ended = hetfed(capsys, "join", "--ckpt_path", run_folder / "last.ckpt", "-c", plain)
    assert ended.code == 2
    assert "participant 'hospital_c' can take over nothing: nobody of hospital_a, hospital_b" in ended.err
    taught = written(newcomer(backbone=backbone, transfer={"distillation_epochs": 2}), "new.yaml")
    ended = hetfed(capsys, "join", "--ckpt_path", run_folder / "last.ckpt", "-c", taught, "--output", "elsewhere")
    assert ended.code == 0, ended.err
    assert "takes over 2 passes over the public set, taught by hospital_a, hospital_b" in ended.out
    assert Path("elsewhere/federation.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.promise("private")
def test_the_account_of_private_averages_survives_who_joins_and_leaves(
    capsys: CAPSYS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny()
    put(config, "trainer.enable_checkpointing", True)
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs"}}
    put(config, "trainer.logger", logger)
    noise = {"noise_multiplier": 2.0, "max_update_norm": 1.0, "delta": 0.001, "server_optimizer": None}
    put(
        config,
        "trainer.callbacks",
        [
            {"class_path": "hetfed_lightning.PrivateAveraging", "init_args": noise},
            {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"filename": "last"}},
        ],
    )
    assert hetfed(capsys, "fit", "-c", written(config)).code == 0
    path = next(Path("runs").rglob("last.ckpt"))
    taught = written(newcomer(transfer={"distillation_epochs": 1}), "taught.yaml")
    ended = hetfed(capsys, "join", "--ckpt_path", path, "-c", taught)
    assert ended.code == 2
    assert "'hospital_c': transfer.distillation_epochs: the federation's averages are private" in ended.err
    assert hetfed(capsys, "join", "--ckpt_path", path, "-c", written(newcomer(), "new.yaml")).code == 0
    rounds = ("--trainer.max_epochs", "3")
    joined = "joined/federation.ckpt"
    ended = hetfed(capsys, "fit", "-c", "joined/config.yaml", "--ckpt_path", joined, *rounds)
    assert ended.code == 0, ended.err
    last = max(Path("runs").rglob("*.ckpt"), key=lambda one: one.stat().st_mtime)
    before = releases(path)
    assert releases(last) == {"hospital_a": 3, "hospital_b": 3, "hospital_c": 3 - before["hospital_a"]}
    arguments = ("--ckpt_path", last, "--participant", "hospital_a", "--output", "left")
    assert hetfed(capsys, "leave", *arguments).code == 0
    assert releases(Path("left/federation.ckpt")) == releases(last)


def releases(path: Path) -> dict[str, int]:
    """How often each participant's update was released, by a checkpoint."""
    callbacks = read_checkpoint(path)["callbacks"]
    state = next(one for key, one in callbacks.items() if "PrivateAveraging" in key)
    return {name: sum(count for *_, count in events) for name, events in state["releases"]}


def test_what_cannot_join_or_leave_is_told(capsys: CAPSYS, run_folder: Path, tmp_path: Path) -> None:
    checkpoint = run_folder / "last.ckpt"
    new = written(newcomer(), "new.yaml")
    nobody = written({"trainer": {"max_epochs": 1}}, "nobody.yaml")
    two = deepcopy(newcomer())
    two["model"]["participants"]["hospital_d"] = participant()
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(checkpoint.read_bytes())
    (tmp_path / "config.yaml").unlink()  # The configuration that the run was made of.
    for arguments, message in (
        (("join", "-c", new), "--ckpt_path: expected"),
        (("join", "--ckpt_path", checkpoint), "-c: give the newcomer's configuration"),
        (("join", "--ckpt_path", "gone.ckpt", "-c", new), "no such file: gone.ckpt"),
        (("join", "--ckpt_path", checkpoint, "-c", nobody), "hospital_a, hospital_b; found none"),
        (("join", "--ckpt_path", checkpoint, "-c", written(two, "two.yaml")), "found hospital_c, hospital_d"),
        (("join", "--ckpt_path", alone, "-c", new), "there is no config.yaml beside"),
        (
            ("leave", "--ckpt_path", checkpoint, "--participant", "hospital_x", "--output", "left"),
            "no participant 'hospital_x'; did you mean",
        ),
    ):
        ended = hetfed(capsys, *arguments)
        assert ended.code == 2
        assert message in ended.err
    assert not Path("joined").exists()


def test_a_newcomer_without_data_is_named(capsys: CAPSYS, run_folder: Path) -> None:
    config = newcomer()
    Path("data").mkdir()
    for name in ("hospital_a", "hospital_b"):
        Path(f"data/{name}.csv").write_text("x,y\n" + "".join(f"{k},{k % 3}\n" for k in range(20)), encoding="utf-8")
    config["data"] = {
        "class_path": "hetfed_lightning.data.TableDataModule", "init_args": {"path": "data", "target": "y"},
    }  # fmt: skip
    ended = hetfed(capsys, "join", "--ckpt_path", run_folder / "last.ckpt", "-c", written(config, "new.yaml"))
    assert ended.code == 2
    assert "data: there is no training set for 'hospital_c'" in ended.err


def test_a_newcomers_columns_are_those_of_the_trained(
    capsys: CAPSYS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()

    def table(name: str, columns: str) -> None:
        rows = [{"x": k, "y": k % 5, "z": k % 7, "w": k % 4, "sick": k % 3} for k in range(20)]
        lines = [",".join(str(row[column]) for column in columns.split(",")) for row in rows]
        Path(f"data/{name}.csv").write_text("\n".join([columns, *lines]), encoding="utf-8")

    table("hospital_a", "x,y,z,w,sick")
    table("hospital_b", "x,y,z,w,sick")
    config = tiny()
    config["data"] = {
        "class_path": "hetfed_lightning.data.TableDataModule", "init_args": {"path": "data", "target": "sick"},
    }  # fmt: skip
    put(config, "trainer.enable_checkpointing", True)
    config["trainer"]["callbacks"] += [
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"filename": "last"},
        }
    ]
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs"}}
    put(config, "trainer.logger", logger)
    assert hetfed(capsys, "fit", "-c", written(config)).code == 0
    checkpoint = next(Path("runs").rglob("last.ckpt"))
    # Its file would come first by its name, and its columns in another order.
    table("a_newcomer", "w,sick,z,y,x")
    config["model"]["participants"]["a_newcomer"] = participant()
    ended = hetfed(capsys, "join", "--ckpt_path", checkpoint, "-c", written(config, "new.yaml"))
    assert ended.code == 0, ended.err
    own = read_checkpoint("joined/federation.ckpt")["federation"]["own"]
    assert [own[name]["schema"]["columns"] for name in own] == [["x", "y", "z", "w"]] * 3
    table("a_newcomer", "w,z,y,sick")
    ended = hetfed(capsys, "join", "--ckpt_path", checkpoint, "-c", written(config, "new.yaml"))
    assert ended.code == 2
    assert "data/a_newcomer.csv: has no column 'x'" in ended.err


def test_the_configuration_of_a_run_goes_into_a_comparison(capsys: CAPSYS, run_folder: Path) -> None:
    path = run_folder.parent / "config.yaml"
    assert "ckpt_path" in yaml.safe_load(path.read_text(encoding="utf-8"))
    ended = hetfed(capsys, "compare", "-c", path, "--arms", "[local_only]", "--output", "compared")
    assert ended.code == 0, ended.err
