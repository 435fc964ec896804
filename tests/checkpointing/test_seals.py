"""A flipped bit and a missing end are seen before a file is used; intact files, sealed or not, are read."""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hetfed_lightning import BackboneAveraging, Participant
from hetfed_lightning.checkpointing.reading import UnreadableCheckpointError, read_checkpoint
from hetfed_lightning.checkpointing.sealing import is_sealed, write_checkpoint
from tests.conftest import Tally
from tests.federations import equal, fit, state_of, tiny_data, tiny_federation, tiny_participant, trainer

CUTS = (0, 1, 3, 4, 0.25, 0.5, 0.9, -101, -78, -64, -1)
"""Bytes that are left: so many, a fraction, or all but so many. 78 is the whole seal, 64 the hash."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of a federation, written by its Trainer."""
    path = tmp_path / "run" / "a.ckpt"
    fit(tiny_federation("ab"), tiny_data("ab"), 1, BackboneAveraging()).save_checkpoint(path)
    return path


def is_refused(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except UnreadableCheckpointError as error:
        return error.is_damaged and str(path) in str(error)
    return False


@pytest.mark.promise("flip")
def test_every_flipped_bit_is_seen(checkpoint: Path, tally: Tally, full: bool) -> None:
    content = checkpoint.read_bytes()
    assert is_sealed(checkpoint)
    chance = np.random.default_rng(0)
    size = len(content)
    # Anywhere, and as many where the seal is and the archive's last record, which begin 100 bytes before the end.
    count = 500 if full else 50
    places = [*chance.integers(8 * size, size=count), *chance.integers(8 * size - 800, 8 * size, size=count)]
    missed = []
    for place in places:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        checkpoint.write_bytes(damaged)
        if not is_refused(checkpoint):
            missed.append(place)
    tally(tried=len(places), held=len(places) - len(missed))
    assert missed == []


@pytest.mark.promise("flip")
def test_every_cut_is_seen(checkpoint: Path, tally: Tally) -> None:
    content = checkpoint.read_bytes()
    missed = []
    for cut in CUTS:
        left = int(cut * len(content)) if isinstance(cut, float) else cut % len(content)
        checkpoint.write_bytes(content[:left])
        if not is_refused(checkpoint):
            missed.append(cut)
    tally(tried=len(CUTS), held=len(CUTS) - len(missed))
    assert missed == []


@pytest.mark.promise("flip")
@pytest.mark.parametrize("method", ["fit", "validate", "test", "predict"])
def test_the_trainer_sees_a_flipped_bit(method: str, checkpoint: Path) -> None:
    federation = tiny_federation("ab", seed=5)
    before = state_of(federation)
    flip_a_weight(checkpoint)
    with pytest.raises(ValueError, match=r"a\.ckpt cannot be read: .*SHA-256"):
        getattr(trainer(2), method)(federation, datamodule=tiny_data("ab"), ckpt_path=checkpoint)
    assert equal(before, state_of(federation))


@pytest.mark.promise("flip")
def test_one_participant_is_not_taken_out_of_a_damaged_file(checkpoint: Path) -> None:
    flip_a_weight(checkpoint)
    made = tiny_participant()
    with pytest.raises(ValueError, match=r"a\.ckpt cannot be read: .*SHA-256"):
        Participant.load_from_checkpoint(checkpoint, participant="a", backbone=made.backbone, head=made.head)


def flip_a_weight(path: Path) -> None:
    """Flip the top bit of a weight, which torch alone would read as another number."""
    weight = torch.load(path, weights_only=True)["state_dict"]["participants.a.head.weight"].numpy().tobytes()
    content = bytearray(path.read_bytes())
    place = content.index(weight)
    content[place + 3] ^= 0x40
    path.write_bytes(content)
    assert not torch.load(path, weights_only=True)["state_dict"]["participants.a.head.weight"].flatten()[0].abs() < 1e9


def test_a_sealed_file_is_an_archive_like_any_other(tmp_path: Path) -> None:
    content: dict[str, Any] = {"tensor": torch.arange(5.0), "nested": [1, {"a": "b"}]}
    write_checkpoint(content, tmp_path / "a.ckpt")
    with zipfile.ZipFile(tmp_path / "a.ckpt") as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"hetfed sha256 ")
    for settings in ({}, {"mmap": True}, {"map_location": "cpu"}):
        found = torch.load(tmp_path / "a.ckpt", weights_only=True, **settings)
        assert torch.equal(found["tensor"], content["tensor"])
        assert found["nested"] == content["nested"]


def test_the_seal_stays_with_a_copy_a_new_name_and_a_link(tmp_path: Path) -> None:
    write_checkpoint({"a": 1}, tmp_path / "a.ckpt")
    shutil.copy(tmp_path / "a.ckpt", tmp_path / "copy.ckpt")
    (tmp_path / "link.ckpt").symlink_to("copy.ckpt")
    (tmp_path / "a.ckpt").rename(tmp_path / "b.pt")
    assert all(is_sealed(tmp_path / name) for name in ("copy.ckpt", "link.ckpt", "b.pt"))
    with (tmp_path / "b.pt").open("rb") as opened:
        assert read_checkpoint(opened) == {"a": 1}


@pytest.mark.parametrize("settings", [{}, {"_use_new_zipfile_serialization": False}])
def test_files_without_a_seal_are_read(settings: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "a.ckpt", **settings)
    assert not is_sealed(tmp_path / "a.ckpt")
    assert torch.equal(read_checkpoint(tmp_path / "a.ckpt")["a"], torch.ones(3))


@pytest.mark.parametrize("size", [10, 100_000, 3_000_000])
def test_files_of_every_size_are_hashed_right(size: int, tmp_path: Path) -> None:
    # Below and above what is hashed in a thread: 4 MB; many parts, so that some are written while others are read.
    content: dict[str, Any] = {"whole": torch.randn(size), "parts": list(torch.randn(size).split(size // 10))}
    write_checkpoint(content, tmp_path / "a.ckpt")
    assert is_sealed(tmp_path / "a.ckpt")
    assert torch.equal(read_checkpoint(tmp_path / "a.ckpt")["whole"], content["whole"])


def test_a_file_that_cannot_be_read_back_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> bytes:
        raise OSError(5, "Input/output error")

    write_checkpoint({"a": 1}, tmp_path / "a.ckpt")
    monkeypatch.setattr(os, "pread", fail)
    for size in (10, 3_000_000):
        with pytest.raises(OSError, match="Input/output error"):
            write_checkpoint({"a": torch.zeros(size)}, tmp_path / "a.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]
    assert read_checkpoint(tmp_path / "a.ckpt") == {"a": 1}


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ArithmeticError("a fault of the test")


def test_content_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError):
        write_checkpoint({"many": torch.zeros(3_000_000), "one": Unpicklable()}, tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []
