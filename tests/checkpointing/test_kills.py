"""A process that is killed while it saves, or while it trains, leaves a checkpoint from which its run goes on."""

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hetfed_lightning import BackboneAveraging, SafeCheckpointIO
from hetfed_lightning.checkpointing import sealing
from hetfed_lightning.checkpointing.plugin import intact_files
from hetfed_lightning.checkpointing.reading import read_checkpoint
from tests.conftest import Tally
from tests.federations import tiny_data, tiny_federation
from tests.resume.runs import Run, same_run

OTHER_FILESYSTEM = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it

SIZE = 50_000
"""Numbers of a checkpoint that is saved in a loop: 200 kB, which are several writes."""

pytestmark = [
    pytest.mark.promise("killed"),
    # The run that is resumed goes on in the folder of the one that was killed.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]


@pytest.fixture(params=["the same filesystem", "another filesystem"])
def temporary(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Where temporary files usually lie."""
    if request.param == "the same filesystem":
        (tmp_path / "temporary").mkdir()
        yield tmp_path / "temporary"
        return
    if not OTHER_FILESYSTEM.is_dir() or OTHER_FILESYSTEM.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other filesystem")
    with tempfile.TemporaryDirectory(dir=OTHER_FILESYSTEM) as folder:
        yield Path(folder)


def child(run: Callable[[Any], None], temporary: Path) -> tuple[Any, Any]:
    """A process that does something, with its temporary folder, and tells what it has done through a pipe."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def begin() -> None:
        os.environ["TMPDIR"] = str(temporary)
        tempfile.tempdir = None
        run(theirs)

    process = context.Process(target=begin)
    process.start()
    theirs.close()
    return process, ours


def save_for_ever(folder: Path, after: int | None) -> Callable[[Any], None]:
    """Save one file after another under one name, and end after so many operations on the disk, within a write."""
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if done == after:
            os.kill(os.getpid(), signal.SIGKILL)

    def write_in_two(file: Any, view: memoryview) -> None:
        half = len(view) // 2
        for part in (view[:half], view[half:]):
            write(file, part)
            count()

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any) -> Any:
            count()
            return call(*arguments)

        return counting

    write = vars(sealing)["write_all"]

    def run(pipe: Any) -> None:
        if after is not None:
            vars(sealing)["write_all"] = write_in_two
            os.fsync = counted(os.fsync)
            Path.replace = counted(Path.replace)  # type: ignore[method-assign]
        plugin = SafeCheckpointIO()
        for number in range(1, 1_000_000):
            content = {"number": number, "weights": torch.full((SIZE,), float(number))}
            plugin.save_checkpoint(content, folder / "last.ckpt")
            pipe.send(number)

    return run


def told(pipe: Any) -> int:
    """The last number of a pipe whose other end is closed."""
    number = 0
    try:
        while True:
            number = pipe.recv()
    except EOFError:
        return number


def test_a_save_that_is_killed_loses_nothing(temporary: Path, tmp_path: Path, tally: Tally, full: bool) -> None:
    chance = np.random.default_rng(1)
    tried, lost = 40 if full else 6, []
    for attempt in range(tried):
        folder = tmp_path / f"attempt_{attempt}"
        within = attempt % 2 == 0
        # A save makes some 30 operations: the kill falls into the first six.
        process, pipe = child(save_for_ever(folder, int(chance.integers(1, 180)) if within else None), temporary)
        if not within:
            pipe.recv()
            time.sleep(chance.random() * 0.03)
            process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        saved = told(pipe)
        found = [read_checkpoint(file) for file in intact_files(folder)]
        whole = all(bool((one["weights"] == one["number"]).all()) for one in found)
        if not whole or max([0, *(one["number"] for one in found)]) < saved:
            lost.append(attempt)
        # The next process clears away what the killed one left.
        SafeCheckpointIO().save_checkpoint({}, folder / "last.ckpt")
        assert [file.name for file in folder.iterdir()] == ["last.ckpt"]
    tally(tried=tried, held=tried - len(lost))
    assert lost == []


ROUNDS = 3


def make() -> Any:
    # Two runs may find different engines fastest, which do not compute in the same bits.
    return tiny_federation("ab", engine="sequential"), tiny_data("ab"), [BackboneAveraging()]


def every_batch(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)


def test_a_fit_that_is_killed_goes_on_to_the_same_bits(
    temporary: Path, tmp_path: Path, tally: Tally, full: bool
) -> None:
    straight = Run(make, ROUNDS)
    chance = np.random.default_rng(2)
    tried, lost = 10 if full else 1, []
    for attempt in range(tried):
        folder = tmp_path / f"attempt_{attempt}"

        def train(_: Any, folder: Path = folder) -> None:
            Run(make, ROUNDS, every=every_batch(folder))

        process, _ = child(train, temporary)
        while not (folder / "last.ckpt").exists():
            time.sleep(0.001)
        time.sleep(chance.random() * 0.15)
        process.kill()
        process.join(60)
        resumed = Run(make, ROUNDS, every=every_batch(folder), resume="last")
        assert resumed.trainer.ckpt_path is not None
        if same_run(straight, resumed):
            lost.append(attempt)
    tally(tried=tried, held=tried - len(lost))
    assert lost == []
