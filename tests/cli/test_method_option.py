"""``--method NAME``: what it puts in the place of a configuration's methods, and what it leaves."""

from pathlib import Path
from typing import Any

import pytest

from hetfed_lightning.cli.configs import ConfigError, load_configs, split_arguments
from hetfed_lightning.cli.groups import settings_by_member
from hetfed_lightning.cli.known_methods import known_methods
from hetfed_lightning.cli.method_option import with_method
from tests.cli.commands import QUIET, hetfed

DIGITS = Path(__file__).resolve().parents[2] / "configs" / "digits.yaml"
QUICK = [f"--trainer.{key}={str(value).lower()}" for key, value in QUIET.items() if "checkpointing" not in key]

OWN = '''
"""A method of a user's own."""

from hetfed_lightning import BackboneAveraging


class Halved(BackboneAveraging):
    """Averages of which half is taken."""

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = share

    def combine(self, *args, **kwargs):
        print(f"halved by {self.share}")
        return super().combine(*args, **kwargs)
'''


def classes(config: dict[str, Any]) -> list[str]:
    return [one["class_path"].rpartition(".")[2] for one in config["trainer"]["callbacks"]]


def test_methods_are_replaced_and_other_callbacks_keep_their_places() -> None:
    config = load_configs([str(DIGITS)])
    assert classes(config) == ["EnsembleDistillation", "BackboneAveraging", "ModelCheckpoint"]
    found = with_method(config, "FedProto", [("weight", "2.0"), ("predicts", "prototype")])
    assert classes(found) == ["FedProto", "ModelCheckpoint"]
    assert found["trainer"]["callbacks"][0]["init_args"] == {"weight": 2.0, "predicts": "prototype"}
    assert found["model"] == config["model"]  # The paper says nothing of what is shared beside.
    assert classes(config) == ["EnsembleDistillation", "BackboneAveraging", "ModelCheckpoint"]
    assert classes(with_method(config, "local", [])) == ["ModelCheckpoint"]


def test_participants_share_what_the_paper_has_them_share() -> None:
    found = with_method(load_configs([str(DIGITS)]), "fedavg", [("max_share", "0.4")])
    assert found["trainer"]["callbacks"][0] == {
        "class_path": "hetfed_lightning.BackboneAveraging",
        "init_args": {"max_share": 0.4},
    }
    assert {tuple(one["init_args"]["shared"]) for one in found["model"]["participants"].values()} == {("*",)}
    again = with_method(found, "fedrep", [])  # Which needs personal parameters.
    assert {tuple(one["init_args"]["shared"]) for one in again["model"]["participants"].values()} == {("backbone",)}


def test_members_of_a_group_share_it_too() -> None:
    config = with_method(load_configs([str(DIGITS.with_name("car_parks.yaml"))]), "fedavg", [])
    for one in settings_by_member(config["model"]["participants"]).values():
        assert one["init_args"]["shared"] == ["*"]


def test_presets_and_published_methods_are_known() -> None:
    known = known_methods()
    assert {
        "local",
        "fedavg",
        "fedper",
        "lgfedavg",
        "fedprox",
        "fedbn",
        "scaffold",
        "fedproto",
        "ditto",
    } <= known.keys()
    assert all(
        one.init_args["max_share"] == 1.0 for name, one in known.items() if name.startswith("fedp") and one.init_args
    )


def test_a_student_that_nothing_teaches_is_left_out() -> None:
    config = load_configs([str(DIGITS.parent / "digits_student.yaml")])
    assert "student" in config["model"]
    assert "student" not in with_method(config, "fedavg", [])["model"]


def test_wrong_names_and_values_end_in_a_sentence() -> None:
    with pytest.raises(
        ConfigError, match=r"--method fedprot: no method of that name; did you mean 'fedproto'.*scaffold"
    ):
        with_method({}, "fedprot", [])
    with pytest.raises(ConfigError, match=r"--method.weight: expected a value as YAML"):
        with_method({}, "fedproto", [("weight", "[1")])
    with pytest.raises(ConfigError, match="--method: expected a value after it"):
        split_arguments(["--method"])


def test_a_federation_is_trained_by_the_named_method(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["fit", "-c", str(DIGITS), *QUICK, "--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path}"]
    ended = hetfed(capsys, *options, "--method", "fedproto", "--method.weight", "0.5")
    assert ended.code == 0, ended.err
    wrong = hetfed(capsys, *options, "--method", "fedproto", "--method.wait", "0.5")
    assert wrong.code != 0
    assert "wait" in wrong.err
    for arguments, message in (
        (["--method", "fedavg"], "give the configuration"),
        (["--method.weight=1", "-c", str(DIGITS)], "give --method NAME"),
    ):
        ended = hetfed(capsys, "fit", *arguments)
        assert ended.code != 0
        assert message in ended.err


def test_a_method_in_any_folder_needs_no_change_of_the_package(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "halved.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    options = ["fit", "-c", str(DIGITS), *QUICK, "--trainer.max_epochs=1", "--allow_import", "halved"]
    ended = hetfed(capsys, *options, "--method", "halved.Halved", "--method.share", "0.3")
    assert ended.code == 0, ended.err
    assert "halved by 0.3" in ended.out
