"""Files are there whole or not at all, on the disk before they have their name, and leftovers are cleared away."""

import fcntl
import multiprocessing
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hetfed_lightning.checkpointing.atomic import atomic_file, remove_leftovers, write_atomically


def spied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of the disk, in order."""
    calls: list[str] = []
    synchronise, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        calls.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        synchronise(descriptor)

    def rename(path: Path, target: Any) -> Any:
        calls.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    return calls


@pytest.mark.promise("killed")
def test_the_file_is_on_the_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = spied(monkeypatch)
    write_atomically(tmp_path / "new" / "a", "text")
    assert calls == ["fsync file", "replace", "fsync folder"]
    assert (tmp_path / "new" / "a").read_text() == "text"


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"old")

    def write() -> None:
        with atomic_file(tmp_path / "a") as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    write_atomically(tmp_path / "target", "old")
    (tmp_path / "link").symlink_to("target")
    write_atomically(tmp_path / "link", "new")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "old"


def test_others_may_read_what_they_may_read_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_atomically(tmp_path / "a", "")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_names_may_be_as_long_as_the_filesystem_allows(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("a" * 255), "text")
    assert len(list(tmp_path.iterdir())) == 1


def in_a_child(run: Callable[[Any], None]) -> tuple[Any, Any]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=run, args=(theirs,))
    process.start()
    assert ours.poll(60)
    return process, ours


def test_leftovers_of_the_dead_are_removed_and_files_in_the_making_are_not(tmp_path: Path) -> None:
    def write(pipe: Any) -> None:
        with atomic_file(tmp_path / "a") as file:
            file.write(b"half")
            pipe.send("begun")
            pipe.recv()
            file.write(b" whole")

    process, pipe = in_a_child(write)
    remove_leftovers(tmp_path)  # Its writer lives.
    assert len(list(tmp_path.glob(".hetfed-*"))) == 1
    pipe.send("go on")
    process.join(60)
    assert (tmp_path / "a").read_bytes() == b"half whole"

    process, _ = in_a_child(write)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert len(list(tmp_path.glob(".hetfed-*"))) == 1
    write_atomically(tmp_path / "b", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert (tmp_path / "a").read_bytes() == b"half whole"


def test_a_file_that_is_taken_for_a_leftover_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, calls = fcntl.flock, list[int]()

    def late(file: Any, operation: int) -> None:
        if not calls:
            calls.append(operation)
            remove_leftovers(tmp_path)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    write_atomically(tmp_path / "a", "text")
    assert calls
    assert (tmp_path / "a").read_text() == "text"
