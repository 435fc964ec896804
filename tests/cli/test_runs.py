import csv
import pickle
import re
from functools import wraps
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import lightning as L
import pytest
import torch
import yaml

from hetfed_lightning.cli.export import load_participant
from hetfed_lightning.cli.predictions import Predicted, write_predictions
from tests.cli.commands import CLASSES, hetfed, made_once, member, participant, tiny, written

INPUTS = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))


def logged(*names: str, student: bool = False) -> dict[str, Any]:
    """A configuration that logs and saves."""
    config = tiny(names or ("hospital_a", "hospital_b"))
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs", "name": "tiny"}}
    config["trainer"] |= {"logger": logger, "enable_checkpointing": True, "log_every_n_steps": 1}
    config["trainer"]["callbacks"].append(
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"filename": "last"}}
    )
    if student:
        config["model"]["student"] = participant()
        config["trainer"]["callbacks"].append({"class_path": "hetfed_lightning.EnsembleDistillation"})
    return config


@pytest.fixture
def run_folder(capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two participants."""

    def run() -> None:
        ended = hetfed(capsys, "fit", "-c", written(logged()))
        assert ended.code == 0, ended.err

    made_once("two_participants", run, tmp_path_factory)
    return Path("runs/tiny/version_0")


def checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def shown(out: str) -> list[str]:
    """First column of the table that a command printed."""
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("participant "))
    return [line.split()[0] for line in lines[start + 2 :] if line][:3]


def test_fit_shows_a_table_and_where_it_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    ended = hetfed(capsys, "fit", "-c", written(logged()))
    assert ended.code == 0
    assert shown(ended.out) == ["hospital_a", "hospital_b", "mean"]
    assert "Logs: runs/tiny/version_0/metrics.csv" in ended.out
    assert "Checkpoint: " in ended.out
    assert checkpoint(Path("runs/tiny/version_0")).is_file()


LOGGERS = """
from lightning.pytorch.loggers import Logger


class Service(Logger):
    runs = 0

    def __init__(self, save_dir=None):
        super().__init__()
        self.place, self.told = save_dir, {}
        Service.runs += 1
        self.number = Service.runs

    name = property(lambda self: "project")
    version = property(lambda self: f"run{self.number}")
    save_dir = property(lambda self: self.place)

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *_, **__):
        self.told |= params
"""


def test_services_have_each_runs_configuration_beside_its_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    # W&B says one folder for all runs, MLflow on a database none at all.
    Path("services.py").write_text(LOGGERS, encoding="utf-8")
    config = tiny()
    config["trainer"] |= {"enable_checkpointing": True, "default_root_dir": "root"}
    for settings, place, seeds in (({"save_dir": "all"}, "all", (1, 2)), ({}, "root", (1,))):
        config["trainer"]["logger"] = {"class_path": "services.Service", "init_args": settings}
        for seed in seeds:
            config["model"]["seed"] = seed
            ended = hetfed(capsys, "fit", "-c", written(config), "--allow_import", "services")
            assert ended.code == 0, ended.err
            assert "tensorboard" not in ended.out
        folders = sorted((Path(place) / "project").iterdir())
        assert [
            yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["model"]["seed"] for folder in folders
        ] == list(seeds)
        assert all((folder / "record.json").is_file() for folder in folders)
        assert all(list((folder / "checkpoints").iterdir()) for folder in folders)


def test_a_run_without_a_logger_leaves_the_configurations_that_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny()
    config["trainer"]["max_epochs"] = 0  # What is saved is saved as a command begins.
    path = written(config)
    before = path.read_bytes()
    for seed in ("1", "1", "2"):
        assert hetfed(capsys, "fit", "-c", path, "--model.seed", seed).code == 0
    assert path.read_bytes() == before
    saved = [yaml.safe_load(Path(name).read_text(encoding="utf-8")) for name in ("config-v1.yaml", "config-v2.yaml")]
    assert [one["model"]["seed"] for one in saved] == [1, 2]
    assert not Path("config-v3.yaml").exists()


def test_tensorboard_and_others_are_told_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny()
    config["trainer"]["logger"] = [
        {"class_path": f"lightning.pytorch.loggers.{kind}", "init_args": {"save_dir": kind, "name": "x"}}
        for kind in ("TensorBoardLogger", "CSVLogger")
    ]
    ended = hetfed(capsys, "fit", "-c", written(config))
    assert "Logs: tensorboard --logdir TensorBoardLogger/x/version_0" in ended.out
    assert "Logs: CSVLogger/x/version_0/metrics.csv" in ended.out
    for kind in ("TensorBoardLogger", "CSVLogger"):
        told = yaml.safe_load(Path(kind, "x/version_0/hparams.yaml").read_text(encoding="utf-8"))
        assert told["data"]["init_args"]["batch_size"] == 8


def test_going_on_with_nothing_left_to_do_says_so(capsys: pytest.CaptureFixture[str], run_folder: Path) -> None:
    ended = hetfed(capsys, "fit", "-c", written(logged()), "--ckpt_path", checkpoint(run_folder))
    assert ended.code == 0
    assert "has 1 rounds behind it" in ended.out
    assert "Set max_epochs above 1 to go on." in ended.out
    assert "`hetfed validate` measures what the checkpoint holds." in ended.out
    assert "Nobody was measured" not in ended.out


def test_early_stopping_says_that_it_ended_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny()
    stopping = {"monitor": "federation/val_loss_mean", "min_delta": 99.0, "patience": 1}
    config["trainer"]["callbacks"].append(
        {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": stopping}
    )
    ended = hetfed(capsys, "fit", "-c", written(config), "--trainer.max_epochs", "5")
    assert ended.code == 0, ended.err
    assert "EarlyStopping ended the run after round 2: federation/val_loss_mean" in ended.out


def test_a_wrong_monitor_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny()
    stopping = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val_loss"}}
    config["trainer"]["callbacks"].append(stopping)
    ended = hetfed(capsys, "fit", "-c", written(config))
    assert ended.code == 2
    assert "EarlyStopping follows 'val_loss'" in ended.err


def test_the_saved_configuration_is_the_run(capsys: pytest.CaptureFixture[str], run_folder: Path) -> None:
    saved = run_folder / "config.yaml"
    found = yaml.safe_load(saved.read_text(encoding="utf-8"))
    assert list(found["model"]["participants"]) == ["hospital_a", "hospital_b"]
    again = hetfed(capsys, "fit", "-c", saved)
    assert again.code == 0
    one, other = (
        torch.load(checkpoint(Path(f"runs/tiny/version_{i}")), weights_only=True)["state_dict"] for i in range(2)
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_goes_on_from_its_checkpoint(capsys: pytest.CaptureFixture[str], run_folder: Path) -> None:
    more = ("--trainer.max_epochs", "2", "--ckpt_path", checkpoint(run_folder))
    assert hetfed(capsys, "fit", "-c", written(logged()), *more).code == 0
    saved = torch.load(checkpoint(Path("runs/tiny/version_1")), weights_only=True)
    assert saved["epoch"] == 1
    # Tested by its own configuration, it is not the run before that is measured.
    config = yaml.safe_load(Path("runs/tiny/version_1/config.yaml").read_text(encoding="utf-8"))
    assert config["ckpt_path"] is None


@pytest.mark.parametrize("command", ["validate", "test"])
def test_evaluation_of_a_checkpoint(capsys: pytest.CaptureFixture[str], run_folder: Path, command: str) -> None:
    ended = hetfed(capsys, command, "-c", run_folder / "config.yaml", "--ckpt_path", checkpoint(run_folder))
    assert ended.code == 0
    assert shown(ended.out) == ["hospital_a", "hospital_b", "mean"]


def read_predictions(folder: Path) -> dict[str, list[list[str]]]:
    found = {}
    for path in sorted((folder / "predictions").iterdir()):
        with path.open(encoding="utf-8", newline="") as file:
            found[path.stem] = list(csv.reader(file))
    return found


def test_predictions_of_each_participant(capsys: pytest.CaptureFixture[str], run_folder: Path) -> None:
    ended = hetfed(capsys, "predict", "-c", run_folder / "config.yaml", "--ckpt_path", checkpoint(run_folder))
    assert ended.code == 0
    assert ended.out.count("Predictions: ") == 2
    found = read_predictions(Path("runs/tiny/version_1"))
    assert list(found) == ["hospital_a", "hospital_b"]
    # 90 points less 9 public and 18 for all leave 63: 32 and 31, of which a fifth is each one's test set: 6.4, 6.2.
    for rows in found.values():
        assert rows[0] == ["example", "class", "p0", "p1", "p2"]
        assert [row[0] for row in rows[1:]] == [str(i) for i in range(len(rows) - 1)]
        assert len(rows) - 1 in {6, 7}
        for row in rows[1:]:
            probabilities = [float(value) for value in row[2:]]
            assert sum(probabilities) == pytest.approx(1, abs=1e-5)
            assert int(row[1]) == probabilities.index(max(probabilities))


@pytest.mark.filterwarnings("ignore:Total length of")
def test_without_test_sets_predictions_are_refused_and_tests_say_so(
    capsys: pytest.CaptureFixture[str], run_folder: Path
) -> None:
    found = ("-c", run_folder / "config.yaml", "--ckpt_path", checkpoint(run_folder))
    none = ("--data.init_args.own_fractions", "[0.8, 0.2, 0.0]", "--data.init_args.test_fraction", "0")
    ended = hetfed(capsys, "predict", *found, *none)
    assert ended.code == 2
    assert "each participant predicts on its own test set, and there are none. Give each" in ended.err
    ended = hetfed(capsys, "test", *found, *none)
    assert (ended.code, "Nobody was measured: there are no test sets. Give" in ended.out) == (0, True)


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.")
def test_a_methods_predictions_and_further_models_are_those_of_the_fit(capsys: pytest.CaptureFixture[str]) -> None:
    def table(*arguments: str | Path) -> list[str]:
        ended = hetfed(capsys, *arguments, *allowed)
        assert ended.code == 0, ended.err
        return re.findall(r"^(?:participant|hospital_.|mean) .*", ended.out, re.MULTILINE)

    config, allowed = logged(), ("--allow_import", "tests")
    plain = written(config, "plain.yaml")
    config["trainer"]["callbacks"] += [
        {"class_path": f"tests.methods.own_methods.{one}"} for one in ("Common", "Nearest")
    ]
    given = ("-c", written(config))
    found = table("fit", *given)
    kinds = [f"{whose} {one}" for one in ("accuracy", "loss") for whose in ("own", "global")]
    assert re.split("  +", found[0])[1:] == [f"{one}{model}" for one in kinds for model in ("", ".common", ".network")]
    saved = ("--ckpt_path", checkpoint(Path("runs/tiny/version_0")))
    assert table("validate", *given, *saved) == found
    with Path("runs/tiny/version_0/metrics.csv").open(encoding="utf-8", newline="") as file:
        assert "val_loss.common/hospital_b" in next(csv.reader(file))
    table("predict", *given, *saved)
    table("predict", "-c", plain, *saved)
    by_method, by_network = (read_predictions(Path(f"runs/tiny/version_{one}")) for one in (2, 3))
    assert by_method.keys() == by_network.keys()
    assert by_method != by_network
    table("export", *given, *saved, "--participant", "hospital_a", "--output", "exported")
    alone = load_participant("exported")
    assert not any("method_modules" in key for key in alone.state_dict())


def test_predictions_of_a_student(capsys: pytest.CaptureFixture[str]) -> None:
    config = written(logged(student=True))
    assert hetfed(capsys, "fit", "-c", config).code == 0
    ended = hetfed(capsys, "predict", "-c", config, "--ckpt_path", checkpoint(Path("runs/tiny/version_0")))
    assert ended.code == 0, ended.err
    found = read_predictions(Path("runs/tiny/version_1"))
    assert all(name.startswith("student") for name in found)
    assert "student" in found
    assert len(found["student"]) == 1 + 18


def test_prediction_files_by_hand(tmp_path: Path) -> None:
    loaders = [[torch.tensor([[0.25, 0.75], [0.5, 0.5]])], [torch.tensor([1.5]), torch.tensor([[2.0]])]]
    a, b, c = Predicted("a", "multiclass"), Predicted("b", "regression"), Predicted("c", "multiclass")
    first, second = write_predictions(loaders, [a, b], tmp_path / "new")
    assert first.read_text(encoding="utf-8").splitlines() == ["example,class,p0,p1", "0,1,0.25,0.75", "1,0,0.5,0.5"]
    assert second.read_text(encoding="utf-8").splitlines() == ["example,value", "0,1.5", "1,2"]
    (alone,) = write_predictions(loaders[0], [c], tmp_path)
    assert alone.read_bytes() == first.read_bytes()


@pytest.mark.parametrize(
    ("kind", "classes", "values", "expected"),
    [
        ("regression", (), [[120.5, 80.25]], ["example,value_0,value_1", "0,120.5,80.25"]),
        ("multilabel", (), [[0.875, 0.75, 0.0625]], ["example,p0,p1,p2", "0,0.875,0.75,0.0625"]),
        ("ranking", (), [[3.0, -1.0]], ["example,output_0,output_1", "0,3,-1"]),
        ("ranking", (), [3.0], ["example,output_0", "0,3"]),
        ("binary", (), [[0.75], [0.25]], ["example,p0", "0,0.75", "1,0.25"]),
        ("binary", ("ill", "well"), [0.75, 0.5], ["example,label,p0", "0,well,0.75", "1,ill,0.5"]),
        (
            "multiclass",
            ("ill, badly", "well"),  # And an output that no class belongs to.
            [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.0, 0.0, 1.0]],
            ["example,class,label,p0,p1,p2", '0,0,"ill, badly",0.5,0.25,0.25', "1,1,well,0.25,0.5,0.25", "2,2,,0,0,1"],
        ),
    ],
)
def test_prediction_files_have_the_form_of_their_kind(
    tmp_path: Path, kind: str, classes: tuple[str, ...], values: list[Any], expected: list[str]
) -> None:
    (path,) = write_predictions([torch.tensor(values)], [Predicted("a", kind, classes)], tmp_path)
    assert path.read_text(encoding="utf-8").splitlines() == expected


def test_predictions_on_a_table_name_the_classes(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{site},{i % 5},{i % 3},{('low', 'mid', 'high')[i % 3]}" for site in "ab" for i in range(40)]
    Path("wards.csv").write_text("\n".join(["site,x,y,risk", *rows]), encoding="utf-8")
    config = logged("a", "b", student=True)
    settings = {"path": "wards.csv", "target": "risk", "participant_column": "site", "batch_size": 8, "public_size": 8}
    config["data"] = {"class_path": "hetfed_lightning.data.TableDataModule", "init_args": settings}
    for one in [*config["model"]["participants"].values(), config["model"]["student"]]:
        one["init_args"]["backbone"]["init_args"]["in_features"] = 2
    assert hetfed(capsys, "fit", "-c", written(config)).code == 0
    saved = checkpoint(Path("runs/tiny/version_0"))
    for version, (who, options) in enumerate({"student": (), "a": ("--model.predict_with", "a")}.items(), start=1):
        ended = hetfed(capsys, "predict", "-c", "config.yaml", "--ckpt_path", saved, *options)
        assert ended.code == 0, ended.err
        found = read_predictions(Path(f"runs/tiny/version_{version}"))
        assert {f"{who}_on_a", f"{who}_on_b"} <= found.keys()
        for header, *cells in found.values():
            assert header == ["example", "class", "label", "p0", "p1", "p2"]
            assert cells
            assert all(row[2] == ("high", "low", "mid")[int(row[1])] for row in cells)
        with Path(f"runs/tiny/version_{version}/predictions.csv").open(encoding="utf-8", newline="") as file:
            together = list(csv.DictReader(file))
        assert {row["participant"] for row in together} == {"a", "b"}
        assert {row["predictor"] or row["participant"] for row in together} == {who}


def export(capsys: pytest.CaptureFixture[str], folder: Path, name: str, file: Path | None = None) -> tuple[int, str]:
    options = ("--ckpt_path", file or checkpoint(folder), "--participant", name, "--output", "exported")
    ended = hetfed(capsys, "export", "-c", folder / "config.yaml", *options)
    return ended.code, ended.err


def test_an_exported_participant_is_the_one_in_the_federation(
    capsys: pytest.CaptureFixture[str], run_folder: Path
) -> None:
    assert export(capsys, run_folder, "hospital_b") == (0, "")
    assert sorted(path.name for path in Path("exported").iterdir()) == ["participant.yaml", "weights.safetensors"]
    alone = load_participant("exported").eval()
    saved = torch.load(checkpoint(run_folder), weights_only=True)["state_dict"]
    inside = {
        key.removeprefix("participants.hospital_b."): value for key, value in saved.items() if ".hospital_b." in key
    }
    other = load_participant("exported")
    other.load_state_dict(inside)
    with torch.no_grad():
        assert torch.equal(alone(INPUTS), other.eval()(INPUTS))
        assert alone(INPUTS).shape == (7, CLASSES)
    assert inside.keys() == alone.state_dict().keys()


def test_the_folder_holds_nobody_else(capsys: pytest.CaptureFixture[str], run_folder: Path) -> None:
    assert export(capsys, run_folder, "hospital_b")[0] == 0
    content = b"".join(path.read_bytes() for path in Path("exported").iterdir())
    saved = torch.load(checkpoint(run_folder), weights_only=True)["state_dict"]
    for part in ("weight", "bias"):
        own, others = (
            saved[f"participants.{name}.head.{part}"].numpy().tobytes() for name in ("hospital_b", "hospital_a")
        )
        assert own in content
        assert others not in content
    assert b"hospital_a" not in content
    # (4 + 1) * 6 + (6 + 1) * 5 + (5 + 1) * 3 float32 numbers and a header.
    numbers = 4 * (30 + 35 + 18)
    assert numbers < Path("exported/weights.safetensors").stat().st_size < numbers + 1000


def test_an_unknown_participant_is_not_exported(capsys: pytest.CaptureFixture[str], run_folder: Path) -> None:
    code, error = export(capsys, run_folder, "hospitol_a")
    assert (code, "did you mean 'hospital_a'?" in error) == (2, True)
    assert not Path("exported").exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "export"])
@pytest.mark.parametrize("fault", ["missing", "truncated", "empty"])
def test_checkpoints_that_cannot_be_read(capsys: pytest.CaptureFixture[str], command: str, fault: str) -> None:
    bad = Path("bad.ckpt")
    if fault != "missing":
        torch.save({"state_dict": {"participants.hospital_a.x": torch.zeros(100)}}, bad)
        bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2] if fault == "truncated" else b"")
    more = ("--participant", "hospital_a", "--output", "exported") if command == "export" else ()
    ended = hetfed(capsys, command, "-c", written(tiny()), "--ckpt_path", bad, *more)
    assert ended.code == 2
    assert "bad.ckpt" in ended.err
    assert "Traceback" not in ended.err
    assert not Path("exported").exists()


@pytest.mark.parametrize("command", ["fit", "test", "export"])
def test_a_checkpoint_of_another_architecture(
    capsys: pytest.CaptureFixture[str], run_folder: Path, command: str
) -> None:
    config = logged()
    member(config)["backbone"]["init_args"]["hidden"] = [7]
    more = ("--participant", "hospital_a", "--output", "exported") if command == "export" else ()
    ended = hetfed(capsys, command, "-c", written(config), "--ckpt_path", checkpoint(run_folder), *more)
    assert ended.code == 2
    assert "participant 'hospital_a'" in ended.err
    assert "hidden.0.weight" in ended.err
    assert not Path("exported").exists()


def test_networks_that_nobody_trained_are_told(capsys: pytest.CaptureFixture[str], run_folder: Path) -> None:
    assert "nobody has trained" in hetfed(capsys, "test", "-c", written(tiny())).out
    ended = hetfed(capsys, "test", "-c", run_folder / "config.yaml", "--ckpt_path", checkpoint(run_folder))
    assert "nobody has trained" not in ended.out
    assert "Test (own: each participant's own data; global: everyone's)" in ended.out


class Payload:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.mkdir, (Path("executed"),))


@pytest.mark.parametrize("command", ["fit", "test", "export"])
def test_a_checkpoint_runs_no_code(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with ZipFile("bad.ckpt", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Payload(), protocol=2))
        file.writestr("archive/version", "3")
    more = ("--participant", "hospital_a", "--output", "exported") if command == "export" else ()
    ended = hetfed(capsys, command, "-c", written(tiny()), "--ckpt_path", "bad.ckpt", *more)
    assert ended.code == 2
    assert "bad.ckpt cannot be read: it holds more than weights and plain data" in ended.err
    assert not Path("executed").exists()


def test_a_checkpoint_is_read_as_weights_alone(
    capsys: pytest.CaptureFixture[str], run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    # The signature stays: the options of the command are made of it.
    @wraps(L.Trainer.test)
    def watch(self: L.Trainer, **arguments: Any) -> None:
        seen.append(arguments["weights_only"])

    monkeypatch.setattr(L.Trainer, "test", watch)
    command = ("test", "-c", written(tiny()), "--ckpt_path", checkpoint(run_folder))
    assert hetfed(capsys, *command).code == 0
    assert hetfed(capsys, *command, "--weights_only", "false").code == 0
    assert seen == [True, False]


@pytest.mark.promise("finite")
def test_too_few_left_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(("hospital_a", "hospital_b"))
    config["model"]["min_participants"] = 2
    rate = "--model.participants.hospital_b.init_args.optimizer.init_args.lr"
    ended = hetfed(capsys, "fit", "-c", written(config), rate, "1e38")
    assert ended.code == 1
    assert "hetfed: error: Round 0: 1 of 2 participants is left to go on with, min_participants=2 are" in ended.err
    assert "Traceback" not in ended.err
