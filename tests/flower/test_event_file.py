"""Event files as TensorBoard reads them, on disks that fail."""

import errno
import math
from pathlib import Path
from typing import Any

import pytest

from hetfed_lightning.checkpointing.atomic import write_all
from hetfed_lightning.flower.coordinator.event_file import EventFile
from tests.flower.events import read

WRITE = "hetfed_lightning.flower.coordinator.event_file.write_all"


def steps(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in read(folder).Scalars(tag)]


def test_nothing_is_written_before_the_flush(tmp_path: Path) -> None:
    events = EventFile(tmp_path / "runs")
    events.scalars({"loss/a": 0.5}, 1)
    assert not (tmp_path / "runs").exists()
    events.flush()
    events.scalars({"loss/a": 0.25, "loss/b": math.nan, "loss/c": 1e300}, 2)
    events.text("page", "# a", 3)
    events.flush()
    events.flush()
    assert steps(tmp_path / "runs", "loss/a") == [(1, 0.5), (2, 0.25)]
    [(_, value)] = steps(tmp_path / "runs", "loss/b")
    assert math.isnan(value)
    assert steps(tmp_path / "runs", "loss/c") == [(2, math.inf)]
    [page] = read(tmp_path / "runs").Tensors("page/text_summary")
    assert (page.step, page.tensor_proto.string_val[0]) == (3, b"# a")


def test_what_a_full_disk_did_not_take_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = EventFile(tmp_path)
    events.scalars({"loss/a": 1.0}, 1)
    events.flush()

    def full(file: Any, view: memoryview) -> None:
        write_all(file, view[: len(view) // 2])  # In the middle of a record.
        raise OSError(errno.ENOSPC, "No space left on device")

    for step in (2, 3):
        events.scalars({"loss/a": float(step)}, step)
        with monkeypatch.context() as patched:
            patched.setattr(WRITE, full)
            with pytest.raises(OSError, match="No space left"):
                events.flush()
        assert steps(tmp_path, "loss/a")[0] == (1, 1.0)  # What stands there stays readable.
    events.flush()
    assert steps(tmp_path, "loss/a") == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_the_first_flush_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = EventFile(tmp_path)
    events.scalars({"loss/a": 1.0}, 1)

    def full(file: Any, view: memoryview) -> None:
        write_all(file, view[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(WRITE, full)
        with pytest.raises(OSError, match="No space left"):
            events.flush()
    events.flush()
    assert steps(tmp_path, "loss/a") == [(1, 1.0)]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_was_removed_meanwhile_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "board"
    events = EventFile(folder)
    events.scalars({"loss/a": 1.0}, 1)
    events.flush()
    next(folder.iterdir()).unlink()
    folder.rmdir()
    events.scalars({"loss/a": 2.0}, 2)
    events.flush()
    assert steps(folder, "loss/a") == [(2, 2.0)]


def test_two_files_of_one_second_are_two_and_the_later_one_takes_back_steps(tmp_path: Path) -> None:
    first = EventFile(tmp_path)
    for step in (1, 2, 3):
        first.scalars({"loss/a": float(step)}, step)
    first.flush()
    second = EventFile(tmp_path)
    second.forget_from(2)
    second.scalars({"loss/a": 20.0}, 2)
    second.flush()
    assert len(list(tmp_path.iterdir())) == 2
    assert steps(tmp_path, "loss/a") == [(1, 1.0), (2, 20.0)]


def test_a_picture_has_the_size_that_it_says(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.0, 1.0), dpi=50)
    figure.add_subplot().plot([1, 2])
    events = EventFile(tmp_path)
    events.figure("curve", figure, 4)
    events.flush()
    [image] = read(tmp_path).Images("curve")
    assert (image.step, image.width, image.height) == (4, 100, 50)
    assert image.encoded_image_string.startswith(b"\x89PNG")
