"""Variables of the environment that stand for options."""

from pathlib import Path

import pytest
import yaml

from hetfed_lightning.cli.command import FederatedCLI
from hetfed_lightning.cli.environment import from_environment
from hetfed_lightning.cli.errors import ConfigError
from tests.cli.commands import hetfed, tiny, written

OPTIONS = {"trainer", "model", "data", "threads", "seed_everything"}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("variables", "arguments"),
    [
        ({"HETFED_TRAINER__MAX_EPOCHS": "3"}, ["--trainer.max_epochs=3"]),
        ({"HETFED_DATA__PATH": "a.npz", "HETFED_DATA": "NPZDataModule"}, ["--data=NPZDataModule", "--data.path=a.npz"]),
        ({"HETFED_CONFIG": "a.yaml, hetfed:digits"}, ["--config=a.yaml", "--config=hetfed:digits"]),
        ({"HETFED_METHOD": "fedprox", "HETFED_METHOD__MU": "1"}, ["--method=fedprox", "--method.mu=1"]),
        ({"HETFED_ALLOW_IMPORT": "mine,yours"}, ["--allow_import=mine", "--allow_import=yours"]),
        ({"HETFED_DEBUG": "1", "HETFED_SEEDS": "5", "HETFED_THREADS": "", "TRAINER__MAX_EPOCHS": "3"}, []),
    ],
)
def test_a_variable_is_an_option(variables: dict[str, str], arguments: list[str]) -> None:
    found, used = from_environment(variables, OPTIONS, [])
    assert found == arguments
    assert used == (sorted(variables) if arguments else [])


@pytest.mark.parametrize("given", [["-c", "mine.yaml"], ["--config=mine.yaml"]])
def test_configurations_of_the_command_line_replace_those_of_the_environment(given: list[str]) -> None:
    assert from_environment({"HETFED_CONFIG": "a.yaml"}, OPTIONS, given) == ([], [])


def test_a_mistaken_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"HETFED_TRANER__MAX_EPOCHS: .*--traner; did you mean HETFED_TRAINER__MAX_E"):
        from_environment({"HETFED_TRANER__MAX_EPOCHS": "3"}, OPTIONS, [])


def test_a_run_takes_them_and_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny()
    config["trainer"] |= {"max_epochs": 3, "logger": True, "default_root_dir": "out", "limit_val_batches": 0}
    monkeypatch.setenv("HETFED_CONFIG", str(written(config)))
    monkeypatch.setenv("HETFED_TRAINER__MAX_EPOCHS", "2")
    monkeypatch.setenv("HETFED_TRAINER__LIMIT_TRAIN_BATCHES", "2")
    monkeypatch.setenv("HETFED_MODEL__PARTICIPANTS__HOSPITAL_A__OPTIMIZER__INIT_ARGS__LR", "0.25")
    ended = hetfed(capsys, "fit", "--trainer.max_epochs", "1")
    assert ended.code == 0, ended.err
    assert (
        "From the environment: HETFED_CONFIG, HETFED_MODEL__PARTICIPANTS__HOSPITAL_A__OPTIMIZER__INIT_ARGS__LR, "
        "HETFED_TRAINER__LIMIT_TRAIN_BATCHES, HETFED_TRAINER__MAX_EPOCHS\n"
    ) in ended.out
    (saved,) = Path("out").rglob("config.yaml")
    found = yaml.safe_load(saved.read_text(encoding="utf-8"))
    assert (found["trainer"]["max_epochs"], found["trainer"]["limit_train_batches"]) == (1, 2)
    participants = found["model"]["participants"]
    assert participants["hospital_a"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.25
    assert participants["hospital_b"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HETFED_TRAINER__MAX_EPOCH", "3", "trainer.max_epoch"),
        ("HETFED_TRAINER__MAX_EPOCHS", "many", "max_epochs"),
        ("HETFED_MODEL__PARTICIPANTS__NOBODY__LR", "1", "no participant 'nobody'"),
    ],
)
def test_a_value_that_cannot_be_used_ends_before_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    ended = hetfed(capsys, "fit", "-c", written(tiny()))
    assert (ended.code, message in ended.err) == (2, True), ended.err
    assert f"From the environment: {name}" in ended.out


def test_options_of_compare_are_variables_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETFED_SEEDS", "not a number")
    ended = hetfed(capsys, "compare", "-c", written(tiny()))
    assert (ended.code, "seeds" in ended.err) == (2, True)


def test_a_command_line_made_in_python_reads_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETFED_TRAINER__MAX_EPOCHS", "7")
    cli = FederatedCLI(["-c", str(written(tiny()))], run=False)
    assert cli.trainer.max_epochs == 1
