import runpy
import sys
from typing import Any

import pytest
import torch

import hetfed_lightning
from hetfed_lightning import Participant
from hetfed_lightning.cli import main
from hetfed_lightning.cli.error_messages import condensed, explained
from tests.cli.commands import hetfed, put, tiny, written

DISTILLATION = "hetfed_lightning.EnsembleDistillation"
A = "model.participants.hospital_a.init_args"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (f"{A}.local_epoch", 2, ["participant 'hospital_a'", "did you mean 'local_epochs'?"]),
        (f"{A}.local_epochs", "two", ["participant 'hospital_a'", '"local_epochs"', "Got value: two"]),
        (f"{A}.backbone.class_path", "hetfed_lightning.backbones.ConvBackbon",
         ["participant 'hospital_a'", "did you mean 'ConvBackbone'?"]),
        (f"{A}.backbone.init_args.hiden", [3], ["participant 'hospital_a'", '"backbone"', "did you mean 'hidden'?"]),
        (f"{A}.optimizer.init_args.momentun", 0.5, ["participant 'hospital_a'", "did you mean 'momentum'?"]),
        ("model.participants.hospital_a", 3, ["participant 'hospital_a'", "expected class_path and init_args"]),
        ("model.participants.hospital_a", {"backbone": 1}, ["participant 'hospital_a'", "got the keys backbone"]),
        ("model.student", [1], ["participant 'student'"]),
        ("model.partcipation", 0.5, ["did you mean 'participation'?"]),
        ("model", [1], ["model: expected participants"]),
        ("model.participants", [1], ["model.participants: expected participants by name, got list"]),
        ("trainer.max_epoch", 3, ["did you mean 'max_epochs'?"]),
        ("trainer.max_epochs", "many", ["trainer.max_epochs", "many"]),
        ("data.init_args.batch_siz", 3, ["did you mean 'batch_size'?"]),
        ("data.init_args.batch_size", 0, ["batch_size: expected an integer of at least 1, got 0"]),
        ("data.init_args.path", "none.npz", ["none.npz"]),
        ("data.init_args.partition", {"class_path": "hetfed_lightning.data.Dirichlet", "init_args": {"alpha": 0}},
         ["alpha", "above 0, got 0.0"]),
        ("data.init_args.partition", {"class_path": "hetfed_lightning.data.Dirichlet", "init_args": {"alpha": -1}},
         ["alpha", "above 0, got -1.0"]),
        ("trainer.callbacks.0", {"class_path": DISTILLATION, "init_args": {"temperature": 0}},
         ["temperature above 0, got 0"]),
        ("trainer.callbacks.0", {"class_path": DISTILLATION, "init_args": {"temperatur": 1}},
         ["did you mean 'temperature'?"]),
        ("weights_only", False, ["--weights_only false"]),
    ],
)  # fmt: skip
@pytest.mark.promise("bad settings")
def test_settings_that_cannot_be(capsys: pytest.CaptureFixture[str], key: str, value: Any, words: list[str]) -> None:
    config = tiny()
    put(config, key, value)
    ended = hetfed(capsys, "fit", "-c", written(config))
    assert ended.code == 2
    assert ended.err.count("hetfed: error: ") == 1
    for word in words:
        assert word in ended.err
    assert ended.err.count("did you mean") <= 1
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trainer.max_epoch", "2"], "did you mean 'max_epochs'?"),
        (["--trainer.max_epochs", "two"], "trainer.max_epochs"),
        (["--threads", "0"], "threads"),
        (["--modle.seed", "2"], "--modle.seed"),
    ],
)
def test_options_that_cannot_be(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    ended = hetfed(capsys, "fit", "-c", written(tiny()), *arguments)
    assert (ended.code, words in ended.err) == (2, True)


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command, hint in (("fitt", "'fit'"), ("comparre", "'compare'"), ("xyz", "'export'")):
        ended = hetfed(capsys, command)
        assert (ended.code, f"no command '{command}'" in ended.err, hint in ended.err) == (2, True, True)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    ended = hetfed(capsys, "--version")
    assert (ended.code, ended.out) == (0, f"hetfed {hetfed_lightning.__version__}\n")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (f"{A}.backbone.init_args.in_features", 7, ["'hospital_a'", "(1, 4)", "set in_features=4"]),
        (f"{A}.head.init_args.out_features", 2, ["'hospital_a'", "2"]),
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, key: str, value: Any, words: list[str]
) -> None:
    config = tiny()
    put(config, key, value)
    ended = hetfed(capsys, "fit", "-c", written(config))
    assert ended.code == 2
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err
    monkeypatch.setenv("HETFED_DEBUG", "1")
    with pytest.raises(ValueError, match="hospital_a"):
        hetfed(capsys, "fit", "-c", written(config))


def test_images_of_another_size(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny()
    digits = {"class_path": "hetfed_lightning.showcases.DigitsDataModule", "init_args": {"image_size": 8}}
    put(
        config,
        "data",
        digits | {"init_args": {"image_size": 8, "partition": {"class_path": "hetfed_lightning.data.IID"}}},
    )
    put(config, f"{A}.backbone.init_args.in_features", 784)
    ended = hetfed(capsys, "fit", "-c", written(config))
    assert ended.code == 2
    assert "'hospital_a'" in ended.err
    assert "(1, 1, 8, 8)" in ended.err


def test_an_error_after_training_began_is_raised(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Participant, *_: Any) -> None:
        del self
        raise ValueError("a fault in the program")

    monkeypatch.setattr(Participant, "evaluate_batch", fail)  # A fleet's members are not asked for their steps.
    with pytest.raises(ValueError, match="a fault in the program"):
        hetfed(capsys, "fit", "-c", written(tiny()))


def test_an_error_before_training_is_refused_though_an_earlier_command_trained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert hetfed(capsys, "fit", "-c", written(tiny()), "--trainer.fast_dev_run", "1").code == 0
    config = tiny()
    put(config, f"{A}.backbone.init_args.in_features", 783)
    ended = hetfed(capsys, "fit", "-c", written(config))
    assert (ended.code, "hospital_a" in ended.err) == (2, True)


def test_a_bar_of_ones_own_takes_the_place_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny()
    config["trainer"].pop("enable_progress_bar")
    config["trainer"]["callbacks"].append({"class_path": "lightning.pytorch.callbacks.TQDMProgressBar"})
    assert hetfed(capsys, "fit", "-c", written(config), "--trainer.fast_dev_run", "1").code == 0


def test_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    ended = hetfed(capsys, "fit", "-c", written(tiny()), "--trainer.fast_dev_run", "1")
    assert (ended.code, "Round 1/1" in ended.err) == (0, False)
    ended = hetfed(
        capsys, "fit", "-c", written(tiny()), "--trainer.fast_dev_run", "1", "--trainer.enable_progress_bar=true"
    )
    assert (ended.code, "Round 1/1" in ended.err) == (0, True)


def test_threads(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []
    torch.set_num_threads(2)
    ended = hetfed(capsys, "fit", "-c", written(tiny()), "--threads", "1", "--trainer.fast_dev_run", "1")
    seen.append(torch.get_num_threads())
    assert (ended.code, seen) == (0, [1])


def test_a_message_without_a_suggestion_stays_as_it_is() -> None:
    assert explained("something else") == "something else"
    assert explained("Option 'zzzz' is not accepted") == "Option 'zzzz' is not accepted"
    assert "--allow_import mine" in explained("Importing 'mine.nets.Net' is not allowed")


def test_main_leaves_with_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", "-c", "none.yaml"])
    assert ended.value.code == 2
    assert "none.yaml" in capsys.readouterr().err


def test_the_module_is_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["hetfed_lightning", "fit", "-c", "none.yaml"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("hetfed_lightning", run_name="__main__")
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert "none.yaml: no such configuration file" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("key", "value", "lines"),
    [
        ("data.init_args.batch_size", 0, ["batch_size: expected an integer of at least 1, got 0."]),
        (
            "data.init_args.public_sise",
            3,
            [
                'Parser key "data":',
                "  Problem with given class_path 'hetfed_lightning.data.NPZDataModule':",
                "    Option 'public_sise' is not accepted; did you mean 'public_size'?",
            ],
        ),
        (
            "trainer.callbacks.0.class_path",
            "hetfed_lightning.BackboneAverage",
            [
                'Parser key "trainer.callbacks":',
                "  Problem with given class_path 'hetfed_lightning.BackboneAverage':",
                "    module 'hetfed_lightning' has no attribute 'BackboneAverage'; did you mean 'BackboneAveraging'?",
            ],
        ),
    ],
)
def test_only_what_was_meant_is_told(
    capsys: pytest.CaptureFixture[str], key: str, value: Any, lines: list[str]
) -> None:
    config = tiny()
    put(config, key, value)
    ended = hetfed(capsys, "fit", "-c", written(config))
    assert ended.code == 2
    assert ended.err.split("hetfed: error: ")[1].rstrip().split("\n") == lines


def test_alternatives_that_might_both_be_meant_stay() -> None:
    union = "Does not validate against any of the Union subtypes"
    inner = (
        f"{union}\n  Subtypes: [a, b]\n  Errors:\n    - Expected a number\n    - Expected a schedule\n  Given value: x"
    )
    message = f'Parser key "weight":\n  {inner}'
    assert condensed(message) == 'Parser key "weight":\n  Expected a number\n  Expected a schedule\n  Given value: x'
    assert condensed("nothing of the kind") == "nothing of the kind"
