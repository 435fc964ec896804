from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hetfed_lightning.data import unpacking
from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.sources import read_idx, read_idx_folder, read_idx_images

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def encoded(array: NDArray[Any]) -> bytes:
    kind = array.dtype.str[1:]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, CODES[kind], array.ndim, *array.shape)
    return header + array.astype(f">{kind}").tobytes()


def write_pair(folder: Path, prefix: str, count: int, suffix: str = "") -> None:
    pack = gzip.compress if suffix else bytes
    images = np.arange(count * 6, dtype=np.uint8).reshape(count, 2, 3)
    (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(encoded(images)))
    (folder / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(encoded(np.arange(count, dtype=np.uint8))))


def test_a_file_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "x"
    # 2 x 2 int16: 1, 256, -1, 0
    path.write_bytes(bytes([0, 0, 0x0B, 2, 0, 0, 0, 2, 0, 0, 0, 2, 0, 1, 1, 0, 255, 255, 0, 0]))
    array = read_idx(path)
    assert array.tolist() == [[1, 256], [-1, 0]]
    assert array.dtype == np.int16


@given(st.sampled_from(sorted(CODES)), st.lists(st.integers(0, 3), min_size=1, max_size=3), st.booleans())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, kind: str, shape: list[int], zipped: bool
) -> None:
    array = np.random.default_rng(0).integers(0, 100, shape).astype(kind)
    path = tmp_path_factory.mktemp("idx") / "x"
    path.write_bytes(gzip.compress(encoded(array)) if zipped else encoded(array))
    found = read_idx(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_gives_both_splits(tmp_path: Path, suffix: str) -> None:
    write_pair(tmp_path, "train", 4, suffix)
    write_pair(tmp_path, "t10k", 2, suffix)
    splits = read_idx_folder(tmp_path)
    assert {name: len(examples) for name, examples in splits.items()} == {"train": 4, "test": 2}
    inputs, target = splits["train"][1]
    assert isinstance(inputs, torch.Tensor)
    torch.testing.assert_close(inputs, torch.arange(6.0, 12).reshape(1, 2, 3) / 255)
    assert (torch.as_tensor(target).item(), torch.as_tensor(target).dtype) == (1, torch.int64)


def test_a_folder_may_have_one_split(tmp_path: Path) -> None:
    write_pair(tmp_path, "t10k", 2)
    assert list(read_idx_folder(tmp_path)) == ["test"]


GOOD = encoded(np.arange(6, dtype=np.uint8).reshape(1, 2, 3))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an IDX file, it starts with nothing"),
        (b"\x89PNG....", "not an IDX file, it starts with 89 50 4e 47"),
        (b"\0\0\x07\1\0\0\0\1\1", "not an IDX file, it starts with 00 00 07 01"),
        (b"\0\0\x08\0", "not an IDX file, it starts with 00 00 08 00"),
        (GOOD[:9], "cut off within its header of 3 dimensions"),
        (GOOD[:-1], r"declares shape \(1, 2, 3\), 6 bytes, but holds fewer"),
        (GOOD + b"!", "6 bytes, but holds more"),
        (gzip.compress(GOOD, mtime=0)[:-9], "damaged or cut off"),
        (b"\x1f\x8bnonsense", "damaged or cut off"),
        (gzip.compress(GOOD, mtime=0)[:-8] + b"\0" * 8, "damaged or cut off"),  # wrong checksum
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"few", "but holds fewer"),  # declares 8e28 bytes: must not ask for them
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "digits-idx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"digits-idx: .*{words}"):
        read_idx(path)


def test_large_files_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "_CHUNK", 4)
    path = tmp_path / "x"
    path.write_bytes(encoded(np.arange(30, dtype=np.uint8)))
    assert read_idx(path).tolist() == list(range(30))


def test_files_that_are_no_pair_are_refused(tmp_path: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "images": np.zeros((3, 2, 2), np.uint8),
        "none": np.zeros((0, 2, 2), np.uint8),
        "labels": np.zeros(2, np.uint8),
        "no_labels": np.zeros(0, np.uint8),
        "floats": np.zeros((3, 2, 2), np.float32),
    }
    for name, array in arrays.items():
        (tmp_path / name).write_bytes(encoded(array))
    with pytest.raises(DataError, match=r"images has 3 images but .*labels has 2 labels"):
        read_idx_images(tmp_path / "images", tmp_path / "labels")
    with pytest.raises(DataError, match=r"floats: expected bytes of shape \(N, H, W\), got float32"):
        read_idx_images(tmp_path / "floats", tmp_path / "labels")
    with pytest.raises(DataError, match=r"labels: expected bytes of shape \(N, H, W\), got uint8 of shape \(2,\)"):
        read_idx_images(tmp_path / "labels", tmp_path / "images")
    with pytest.raises(DataError, match="none: has no image"):
        read_idx_images(tmp_path / "none", tmp_path / "no_labels")


def test_incomplete_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: no such folder of IDX files"):
        read_idx_folder(tmp_path / "absent")
    with pytest.raises(DataError, match=r"expected train-images-idx3-ubyte\[.gz\] and its kin"):
        read_idx_folder(tmp_path)
    write_pair(tmp_path, "train", 2)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="has train-images-idx3-ubyte but not train-labels-idx1-ubyte"):
        read_idx_folder(tmp_path)
    with pytest.raises(DataError, match="absent: no such IDX file"):
        read_idx(tmp_path / "absent")
