"""What users wrote while modules stood flat in the package: checkpoints, saved configurations and dotted paths."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse._util import import_object
from safetensors.torch import load_file

from hetfed_lightning.cli.allowlist import restricted_imports
from tests.cli.commands import hetfed

WRITTEN = Path(__file__).parents[1] / "data/before_the_folders"
OLD_NAMES = yaml.safe_load((WRITTEN / "old_names.yaml").read_text(encoding="utf-8"))
OLD_MODULES = yaml.safe_load((WRITTEN / "old_modules.yaml").read_text(encoding="utf-8"))
CLOSED_NAMES = yaml.safe_load((WRITTEN / "closed_names.yaml").read_text(encoding="utf-8"))
ROUNDING = 1e-10
"""The run is in double precision: sums in another order, as on another machine, differ by much less."""


def test_a_run_goes_on_from_its_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    config, checkpoint = WRITTEN / "config.yaml", WRITTEN / "after_two_rounds.ckpt"
    ended = hetfed(capsys, "fit", "-c", config, "--ckpt_path", checkpoint)
    assert ended.code == 0, ended.err
    (last,) = Path().glob("runs/small/*/checkpoints/round-epoch=3.ckpt")
    states = torch.load(last, weights_only=True)["state_dict"]
    uninterrupted = load_file(WRITTEN / "after_four_rounds.safetensors")
    assert list(uninterrupted.keys() ^ states.keys()) == []
    for key, expected in uninterrupted.items():
        torch.testing.assert_close(states[key], expected, rtol=0, atol=ROUNDING, msg=key)


def test_a_configuration_of_old_paths_trains(capsys: pytest.CaptureFixture[str]) -> None:
    ended = hetfed(capsys, "fit", "-c", WRITTEN / "old_paths.yaml")
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(("old", "public"), OLD_NAMES.items(), ids=OLD_NAMES)
def test_an_old_name_may_be_named_and_means_the_same(old: str, public: str) -> None:
    with restricted_imports():
        assert import_object(old) is import_object(public)


@pytest.mark.parametrize(("old", "names"), OLD_MODULES.items(), ids=OLD_MODULES)
def test_a_program_finds_the_classes_of_an_old_module(old: str, names: list[str]) -> None:
    then = import_module(old)
    assert [name for name in names if not hasattr(then, name)] == []


@pytest.mark.parametrize("old", CLOSED_NAMES)
def test_what_was_closed_stays_closed(old: str) -> None:
    with restricted_imports(), pytest.raises(ValueError, match=rf"'{old}' is not allowed"):
        import_object(old)
