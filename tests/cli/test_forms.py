"""Everyday slips in a configuration's form, each told by file, key and the way it is written."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.forms import check_form
from tests.cli.commands import hetfed, tiny, written

SGD = "model.participants.hospital_a.init_args.optimizer"


def with_optimizer(text: str) -> dict[str, Any]:
    config = tiny()
    config["model"]["participants"]["hospital_a"]["init_args"]["optimizer"] = yaml.safe_load(text)
    return config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{class_path: torch.optim.SGD, lr: 0.1}",
         "'lr' stands beside class_path; what a class is made with stands below init_args: {class_path: torch.optim.S"),
        ("{class_path: torch.optim.SGD, init_args: {lr: 0.1}, momentum: 0.9, nesterov: true}",
         "'momentum', 'nesterov' stand beside class_path"),
        ("{class: torch.optim.SGD, init_args: {lr: 0.1}}", f"{SGD}: found 'class'; did you mean 'class_path'?"),
        ("{_target_: torch.optim.SGD, lr: 0.1}", f"{SGD}: found '_target_'; did you mean 'class_path'?"),
        ("{class_path: torch.optim.SGD, args: {lr: 0.1}}", f"{SGD}: found 'args'; did you mean 'init_args'?"),
        ("{class_path: torch.optim.SGD, init_args: {lr=0.1}}",
         f"{SGD}.init_args: found the key 'lr=0.1' without a value; write lr: 0.1, with a space"),
        ("{class_path: torch.optim.SGD, init_args: {lr:0.1}}", "write lr: 0.1, with a space"),
        ("{class_path: torch.optim.SGD, init_args: {lr: 0,1}}", "the key '1' without a value; a decimal point is a"),
        ("{torch.optim.SGD: {lr: 0.1}}",
         f"{SGD}: found the class 'torch.optim.SGD' as a key; write {{class_path: torch.optim.SGD, init_args:"),
    ],
)  # fmt: skip
def test_a_class_that_is_named_otherwise(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as told:
        check_form(with_optimizer(text), "x.yaml")
    assert str(told.value).startswith("x.yaml: ")
    assert words in str(told.value)


def test_a_rate_beside_its_class_is_refused_with_no_other_option(capsys: pytest.CaptureFixture[str]) -> None:
    ended = hetfed(capsys, "fit", "-c", written(with_optimizer("{class_path: torch.optim.SGD, lr: 0.1}")))
    assert ended.code == 2
    assert "init_args: {lr: ...}" in ended.err
    assert "did you mean" not in ended.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trainer": [{"max_epochs": 1}]}, "x.yaml: trainer: expected settings by name, got a list: leave the dashes"),
        ({"data": [{"class_path": "X"}]}, "x.yaml: data: expected settings by name, got a list"),
        ({"model": {"a": {"class_path": "X"}}}, "x.yaml: model.a: participants stand below model.participants"),
        ({"model": {"studnet": {"class_path": "X"}}}, "model.studnet: a federation has no such setting; did you mean"),
        ({"trainer": {"callbacks": [{"weighting": "equal"}]}},
         "x.yaml: trainer.callbacks.0: expected class_path and init_args, got the keys weighting"),
        ({"trainer": {"logger": {"save_dir": "x"}}}, "x.yaml: trainer.logger: expected class_path and init_args"),
        ({"data": {"class_path": "X", "batch_size": 4}}, "x.yaml: data: 'batch_size' stands beside class_path"),
    ],
)  # fmt: skip
def test_a_section_of_another_form(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as told:
        check_form(tiny() | change, "x.yaml")
    assert words in str(told.value)


def test_settings_that_come_beside_a_class_by_a_second_file(capsys: pytest.CaptureFixture[str]) -> None:
    second = written({"data": {"batch_size": 4}}, "second.yaml")
    ended = hetfed(capsys, "fit", "-c", written(tiny()), "-c", second)
    assert ended.code == 2
    assert "second.yaml: data: 'batch_size' stands beside class_path" in ended.err


def test_forms_that_are_right_are_left_alone() -> None:
    config = tiny()
    config["model"]["participants"]["hospital_a"]["count"] = 3
    config["trainer"]["callbacks"] = [
        "hetfed_lightning.BackboneAveraging",
        {"class_path": "X", "dict_kwargs": {"a": 1}},
    ]
    config["trainer"]["logger"] = False
    check_form(config, "x.yaml")
    for one in Path(__file__).parents[2].glob("configs/*.yaml"):
        check_form(yaml.safe_load(one.read_text(encoding="utf-8")), one.name)


def test_words_that_yaml_takes_for_truth_are_to_be_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny()
    config["model"]["predict_with"] = False
    ended = hetfed(capsys, "fit", "-c", written(config))
    assert ended.code == 2
    assert (
        "YAML takes words such as yes, no, on and off, and digits, for other than text: put them in quotes" in ended.err
    )
