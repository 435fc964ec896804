"""Where training is resumed from a damaged file, the newest intact one of its folder is taken, and both are named."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hetfed_lightning import BackboneAveraging, Federation
from hetfed_lightning.checkpointing.plugin import intact_files
from hetfed_lightning.checkpointing.sealing import write_checkpoint
from tests.cli.commands import hetfed, put, tiny, written
from tests.federations import equal, fit, state_of, tiny_data, tiny_federation

pytestmark = [
    pytest.mark.promise("flip"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]

LOG = "hetfed_lightning.checkpointing.plugin"
ROUNDS = 4


def federation() -> Federation:
    return tiny_federation("ab", engine="sequential")


def train(folder: Path, rounds: int, **settings: Any) -> Federation:
    made = federation()
    saving = {"save_top_k": -1, "save_last": True, "filename": "{epoch}"} | settings.pop("saving", {})
    settings["enable_checkpointing"] = True
    fit(made, tiny_data("ab"), rounds, BackboneAveraging(), ModelCheckpoint(folder, **saving), **settings)
    return made


@pytest.fixture
def straight(tmp_path: Path) -> Federation:
    return train(tmp_path / "straight", ROUNDS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a run of three rounds: ``epoch=0.ckpt`` to ``epoch=2.ckpt`` and ``last.ckpt``."""
    train(tmp_path / "run", ROUNDS - 1)
    return tmp_path / "run"


def damage(path: Path) -> None:
    """Flip a bit; the time of the last change stays what it was, as it does when a disk forgets."""
    content, when = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))


@pytest.mark.parametrize("asked", ["last", "last.ckpt"])
@pytest.mark.parametrize(("damaged", "taken"), [(("last",), "epoch=2"), (("last", "epoch=2"), "epoch=1")])
def test_the_newest_intact_file_is_taken(
    asked: str, damaged: tuple[str, ...], taken: str, folder: Path, straight: Federation, caplog: Any
) -> None:
    for name in damaged:
        damage(folder / f"{name}.ckpt")
    with caplog.at_level(logging.WARNING, LOG):
        made = train(folder, ROUNDS, ckpt_path=asked if asked == "last" else folder / asked)
    assert equal(state_of(straight), state_of(made))
    assert [message.partition(" ")[0] for message in caplog.messages] == [str(folder / "last.ckpt")]
    assert f"Training goes on from {folder / taken}.ckpt, the newest intact one there." in caplog.messages[0]


def test_the_newest_is_the_one_that_has_come_furthest_whatever_the_clock_says(
    folder: Path, straight: Federation, caplog: Any
) -> None:
    for age, path in enumerate(sorted(folder.glob("*.ckpt"))):  # As if copied in the order of their names, backwards.
        os.utime(path, (2e9 - age, 2e9 - age))
    assert [path.stem for path in intact_files(folder)] == ["epoch=2", "last", "epoch=1", "epoch=0"]
    damage(folder / "last.ckpt")
    made = train(folder, ROUNDS, ckpt_path=folder / "last.ckpt")
    assert f"{folder / 'epoch=2'}.ckpt, the newest intact one" in caplog.text
    assert equal(state_of(straight), state_of(made))


def test_an_earlier_run_that_came_further_is_not_the_newest(tmp_path: Path) -> None:
    train(tmp_path, 4, saving={"filename": "old-{epoch}", "save_last": False})
    train(tmp_path, 2, saving={"filename": "new-{epoch}", "save_last": False})
    for age, path in enumerate(sorted(tmp_path.glob("*.ckpt"))):
        os.utime(path, (2e9 + age, 2e9 + age))
    found = [path.stem for path in intact_files(tmp_path)]
    assert found == [f"new-epoch={i}" for i in (1, 0)] + [f"old-epoch={i}" for i in (3, 2, 1, 0)]


def test_a_run_that_went_on_is_one_run_and_files_that_say_nothing_go_by_time(folder: Path) -> None:
    train(folder, ROUNDS, ckpt_path=folder / "epoch=2.ckpt", saving={"save_last": False})
    plain = torch.load(folder / "epoch=0.ckpt", weights_only=True)
    del plain["federation"]["run"]  # As earlier versions wrote it.
    write_checkpoint(plain, folder / "earlier.ckpt")
    os.utime(folder / "earlier.ckpt", (1.0, 1.0))
    for path in folder.glob("epoch=*.ckpt"):
        os.utime(path, (2.0, 2.0))
    assert [path.stem for path in intact_files(folder)][:2] == ["epoch=3", "last"]
    assert [path.stem for path in intact_files(folder)][-1] == "earlier"


def test_another_last_one_that_came_further_is_named(folder: Path, caplog: Any) -> None:
    (folder / "last.ckpt").rename(folder / "last-v1.ckpt")
    (folder / "epoch=0.ckpt").rename(folder / "last.ckpt")
    train(folder, 2, ckpt_path=folder / "last.ckpt", saving={"save_last": False, "save_top_k": 0})
    assert f"Training goes on from {folder / 'last.ckpt'}; last-v1.ckpt beside it has come further" in caplog.text


def test_a_link_whose_file_is_gone_or_damaged(tmp_path: Path, straight: Federation, caplog: Any) -> None:
    train(tmp_path / "run", ROUNDS - 1, saving={"save_last": "link"})
    damage(tmp_path / "run" / "epoch=2.ckpt")
    made = train(tmp_path / "run", ROUNDS, ckpt_path=tmp_path / "run" / "last.ckpt")
    assert equal(state_of(straight), state_of(made))
    assert "epoch=1.ckpt, the newest intact one" in caplog.text
    (tmp_path / "run" / "last.ckpt").unlink()
    (tmp_path / "run" / "last.ckpt").symlink_to("gone.ckpt")
    made = train(tmp_path / "run", ROUNDS, ckpt_path=tmp_path / "run" / "last.ckpt")
    assert "a link to a file that is not there" in caplog.text
    assert equal(state_of(straight), state_of(made))


def test_weights_alone_are_nothing_to_go_on_from(folder: Path, straight: Federation, caplog: Any) -> None:
    fit(federation(), tiny_data("ab"), 1).save_checkpoint(folder / "weights.ckpt", weights_only=True)  # the newest
    damage(folder / "last.ckpt")
    assert equal(state_of(straight), state_of(train(folder, ROUNDS, ckpt_path="last")))
    assert "epoch=2.ckpt, the newest intact one" in caplog.text


def test_files_without_a_hash_come_last(folder: Path, straight: Federation) -> None:
    torch.save(torch.load(folder / "epoch=2.ckpt", weights_only=True), folder / "epoch=2.ckpt")
    damage(folder / "last.ckpt")
    assert [path.stem for path in intact_files(folder)] == ["epoch=1", "epoch=0", "epoch=2"]
    for name in ("epoch=0", "epoch=1"):
        damage(folder / f"{name}.ckpt")
    assert equal(state_of(straight), state_of(train(folder, ROUNDS, ckpt_path="last")))


def test_where_all_are_damaged_the_one_asked_for_is_named(folder: Path) -> None:
    for path in folder.glob("*.ckpt"):
        damage(path)
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be read: it is cut off, damaged"):
        train(folder, ROUNDS, ckpt_path="last")


def test_the_best_model_is_not_replaced_by_another(folder: Path) -> None:
    made = federation()
    keeping = ModelCheckpoint(folder, monitor="federation/val_accuracy_mean", mode="max", filename="best")
    trainer = fit(made, tiny_data("ab"), 1, keeping, enable_checkpointing=True)
    damage(folder / "best.ckpt")
    with pytest.raises(ValueError, match=r"best\.ckpt cannot be read"):
        trainer.test(made, datamodule=tiny_data("ab"), ckpt_path="best", verbose=False)


def test_the_command_line_goes_back_where_it_trains_and_nowhere_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny()
    put(config, "trainer.enable_checkpointing", True)
    saving = {"dirpath": str(tmp_path / "run"), "save_top_k": -1, "filename": "{epoch}"}
    config["trainer"]["callbacks"] += [
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saving}
    ]
    assert hetfed(capsys, "fit", "-c", written(config), "--trainer.max_epochs", "2").code == 0
    damaged = tmp_path / "run" / "epoch=1.ckpt"
    damage(damaged)
    ended = hetfed(capsys, "test", "-c", written(config), "--ckpt_path", damaged)
    assert ended.code == 2
    assert f"--ckpt_path: {damaged} cannot be read" in ended.err
    ended = hetfed(capsys, "fit", "-c", written(config), "--trainer.max_epochs", "3", "--ckpt_path", damaged)
    assert ended.code == 0
    assert f"Training goes on from {tmp_path / 'run' / 'epoch=0.ckpt'}, the newest intact one there." in ended.out
    for path in (tmp_path / "run").iterdir():
        if path != damaged:
            path.unlink()
    ended = hetfed(capsys, "fit", "-c", written(config), "--trainer.max_epochs", "3", "--ckpt_path", damaged)
    assert ended.code == 2
    assert f"--ckpt_path: {damaged} cannot be read" in ended.err
