"""A disk that is full costs a warning and no training, and the checkpoints that there were stay as they are."""

import contextlib
import errno
import logging
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from torch.utils.data import DataLoader

from hetfed_lightning import BackboneAveraging, FederatedStrategy, Federation, SafeCheckpointIO
from hetfed_lightning.checkpointing import sealing
from hetfed_lightning.checkpointing.plugin import intact_files
from hetfed_lightning.checkpointing.sealing import is_sealed
from tests.conftest import Tally
from tests.federations import equal, examples, fit, state_of, tiny_data, tiny_federation, tiny_participant, trainer
from tests.strategies.launching import codes, fork

# The run that is resumed keeps no checkpoints; the one before it did.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks:UserWarning")

LOG = "hetfed_lightning.checkpointing.plugin"
ROUNDS = 4


class Faulty(L.Callback):
    """The disk is faulty in some rounds, from their beginning."""

    def __init__(self, fault: Callable[[], contextlib.AbstractContextManager[None]], rounds: tuple[int, ...]) -> None:
        self.fault = fault
        self.rounds = rounds
        self.stack = contextlib.ExitStack()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.stack.close()
        if trainer.current_epoch in self.rounds:
            self.stack.enter_context(self.fault())

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.stack.close()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.stack.close()


@contextlib.contextmanager
def size_limit(size: int = 5_000) -> Iterator[None]:
    """No file may be longer than so many bytes; a checkpoint has 8,000."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def full_after(size: int, number: int = errno.ENOSPC) -> Iterator[None]:
    """The disk takes so many bytes of each file, and then an error."""
    write, written = vars(sealing)["write_all"], dict[Any, int]()

    def limited(file: Any, view: memoryview) -> None:
        left = size - written.get(file, 0)
        write(file, view[:left])
        written[file] = written.get(file, 0) + len(view)
        if len(view) > left:
            raise OSError(number, os.strerror(number))

    vars(sealing)["write_all"] = limited
    try:
        yield
    finally:
        vars(sealing)["write_all"] = write


def federation() -> Federation:
    return tiny_federation("ab", engine="sequential")


def trained(folder: Path, *faults: L.Callback, **settings: Any) -> Federation:
    """A federation after a fit that keeps its newest checkpoint, and a last one."""
    made = federation()
    settings = {"enable_checkpointing": True} | settings
    saving = ModelCheckpoint(folder, save_last=settings.pop("save_last", True))
    fit(made, tiny_data("ab"), ROUNDS, BackboneAveraging(), saving, *faults, **settings)
    return made


@pytest.mark.promise("full")
@pytest.mark.parametrize("fault", [size_limit, lambda: full_after(5_000), lambda: full_after(0, errno.EDQUOT)])
def test_training_goes_on_and_the_older_checkpoint_stays(
    fault: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight, folder = trained(tmp_path / "straight"), tmp_path / "full"
    with caplog.at_level(logging.WARNING, LOG):
        made = trained(folder, Faulty(fault, (2, 3)))
    assert equal(state_of(straight), state_of(made))
    # Of the second round's end; a round has 4 batches.
    assert sorted(path.name for path in folder.iterdir()) == ["epoch=1-step=8.ckpt", "last.ckpt"]
    assert all(is_sealed(path) for path in folder.iterdir())
    assert len(caplog.messages) == 4
    assert f"{folder / 'epoch=2-step=12.ckpt'} could not be written: " in caplog.messages[0]
    assert f"Training goes on; the newest one that is kept is {folder / 'last.ckpt'}." in caplog.messages[0]
    resumed = federation()
    fit(resumed, tiny_data("ab"), ROUNDS, BackboneAveraging(), ckpt_path=folder / "last.ckpt")
    assert equal(state_of(straight), state_of(resumed))


@pytest.mark.promise("full")
def test_wherever_in_a_file_the_disk_is_full(tmp_path: Path, tally: Tally, full: bool) -> None:
    plugin, path = SafeCheckpointIO(), tmp_path / "a.ckpt"
    plugin.save_checkpoint({"number": 0, "weights": torch.zeros(50_000)}, path)
    size, lost = path.stat().st_size, []
    places = [0, size - 1, *np.random.default_rng(0).integers(size, size=100 if full else 10)]
    for number, place in enumerate(places, 1):
        with full_after(int(place)):
            plugin.save_checkpoint({"number": number, "weights": torch.zeros(50_000)}, path)
        held = is_sealed(path) and torch.load(path, weights_only=True)["number"] == 0
        if not held or [file.name for file in tmp_path.iterdir()] != ["a.ckpt"]:
            lost.append(place)
    tally(tried=len(places), held=len(places) - len(lost))
    assert lost == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 28 kB, of which two checkpoints take 12 kB each."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=28k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.promise("full")
def test_a_filesystem_that_fills_up(tiny_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    straight = federation()
    fit(straight, tiny_data("ab"), ROUNDS, BackboneAveraging())
    made = federation()
    with caplog.at_level(logging.WARNING, LOG):
        keep_all = ModelCheckpoint(tiny_disk, save_top_k=-1)
        fit(made, tiny_data("ab"), ROUNDS, BackboneAveraging(), keep_all, enable_checkpointing=True)
    assert equal(state_of(straight), state_of(made))
    assert "No space left on device" in caplog.messages[0]
    found = list(intact_files(tiny_disk))
    assert found
    assert sorted(found) == sorted(tiny_disk.iterdir())
    resumed = federation()
    fit(resumed, tiny_data("ab"), ROUNDS, BackboneAveraging(), ckpt_path=found[0])
    assert equal(state_of(straight), state_of(resumed))


@pytest.mark.promise("full")
def test_two_ranks_go_on(tmp_path: Path) -> None:
    straight = trained(tmp_path / "straight")

    def run(rank: int) -> None:
        settings = {"strategy": FederatedStrategy(), "devices": 2}
        made = trained(tmp_path / "full", Faulty(lambda: full_after(5_000), (2, 3)), **settings)
        assert equal(state_of(straight), state_of(made))

    processes = fork(2, tmp_path, run)
    ended = codes(processes)
    said = [(tmp_path / f"rank_{rank}.log").read_text() for rank in range(2)]
    assert ended == [0, 0], "\n".join(said)
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["epoch=1-step=8.ckpt", "last.ckpt"]
    assert all(is_sealed(path) for path in (tmp_path / "full").iterdir())


@pytest.mark.promise("full")
def test_what_was_spared_goes_when_there_is_room_again(tmp_path: Path) -> None:
    # The second and third checkpoint are missing, so that the first stays; the fourth takes the place of all.
    trained(tmp_path, Faulty(lambda: full_after(5_000), (1, 2)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch=3-step=16.ckpt", "last.ckpt"]


def test_the_only_one_of_two_callbacks_is_not_removed_for_the_other(tmp_path: Path) -> None:
    plugin = SafeCheckpointIO()
    plugin.save_checkpoint({}, tmp_path / "best_1.ckpt")
    with full_after(0):
        plugin.save_checkpoint({}, tmp_path / "best_2.ckpt")
    plugin.remove_checkpoint(tmp_path / "best_1.ckpt")
    plugin.save_checkpoint({}, tmp_path / "last_2.ckpt")  # Of another callback, which removes its own.
    plugin.remove_checkpoint(tmp_path / "last_1.ckpt")
    assert (tmp_path / "best_1.ckpt").exists()
    plugin.save_checkpoint({}, tmp_path / "best_3.ckpt")
    plugin.remove_checkpoint(tmp_path / "best_2.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best_3.ckpt", "last_2.ckpt"]


# Errors of another kind, and at another time


def test_no_permission_from_the_beginning_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        trained(tmp_path, Faulty(lambda: full_after(0, errno.EACCES), (0, 1, 2, 3)))


def test_no_permission_any_more_does_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained(tmp_path, Faulty(lambda: full_after(0, errno.EACCES), (2, 3)))
    assert "could not be written: Permission denied" in caplog.text


def test_after_training_an_error_is_an_error(tmp_path: Path) -> None:
    made = fit(federation(), tiny_data("ab"), 1)
    made.save_checkpoint(tmp_path / "a.ckpt")
    with full_after(0), pytest.raises(OSError, match="No space left"):
        made.save_checkpoint(tmp_path / "a.ckpt")
    assert is_sealed(tmp_path / "a.ckpt")


# Other plugins and strategies


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "federated"},
        {"strategy": "auto"},
        {"plugins": [SafeCheckpointIO()]},
        {"plugins": [AsyncCheckpointIO()]},
    ],
)
def test_whatever_the_strategy_files_are_sealed(settings: dict[str, Any], tmp_path: Path) -> None:
    trained(tmp_path, **settings)
    assert all(is_sealed(path) for path in tmp_path.glob("*.ckpt"))
    assert len(list(tmp_path.glob("*.ckpt"))) == 2


def test_a_thread_that_writes_slowly_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = vars(sealing)["write_all"]

    def slowly(file: Any, view: memoryview) -> None:
        time.sleep(0.002)
        written(file, view)

    monkeypatch.setattr(sealing, "write_all", slowly)
    trained(tmp_path, plugins=[AsyncCheckpointIO()])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch=3-step=16.ckpt", "last.ckpt"]


def test_a_link_to_the_newest(tmp_path: Path) -> None:
    trained(tmp_path, save_last="link")
    assert (tmp_path / "last.ckpt").is_symlink()
    assert is_sealed(tmp_path / "last.ckpt")


def test_other_modules_have_it_as_a_plugin(tmp_path: Path) -> None:
    made = trainer(1, plugins=[SafeCheckpointIO()])
    loader = DataLoader(examples(8), batch_size=4)
    made.fit(tiny_participant(), loader, loader)
    made.save_checkpoint(tmp_path / "alone.ckpt")
    assert is_sealed(tmp_path / "alone.ckpt")
