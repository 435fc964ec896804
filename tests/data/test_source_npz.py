from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.sources import read_npz, read_npz_splits


def save(path: Path, **arrays: np.ndarray[Any, Any]) -> Path:
    np.savez(path, allow_pickle=True, **arrays)
    return path


class Payload:
    """Runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 5), (1, 4, 5)),
        ((4, 5, 3), (3, 4, 5)),
        ((4, 5, 1), (1, 4, 5)),
        ((6, 4, 5), (1, 6, 4, 5)),  # a volume, as OrganMNIST3D's
    ],
)
def test_splits_of_medmnist(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, *shape)).astype(np.uint8)
    path = save(
        tmp_path / "x.npz",
        train_images=images,
        train_labels=np.array([[1], [0], [2]], np.uint8),
        test_images=images[:1],
        test_labels=np.array([[1]], np.uint8),
    )
    splits = read_npz_splits(path)
    assert {name: len(examples) for name, examples in splits.items()} == {"train": 3, "test": 1}
    inputs, targets = splits["train"].batch(torch.arange(3))
    assert isinstance(inputs, torch.Tensor)
    assert (inputs.shape[1:], inputs.dtype) == (expected, torch.float32)
    assert torch.as_tensor(targets).tolist() == [1, 0, 2]
    moved = np.moveaxis(images, -1, 1) if shape[-1] in {1, 3} else images[:, None]
    torch.testing.assert_close(inputs, torch.tensor(moved / 255, dtype=torch.float32))


def test_several_labels_per_image_stay_several(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz", val_images=np.zeros((2, 3, 3), np.uint8), val_labels=np.array([[1, 0], [1, 1]]))
    assert torch.as_tensor(read_npz_splits(path)["val"].targets).tolist() == [[1, 0], [1, 1]]


def test_two_arrays_by_name(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz", features=np.array([[1.5], [2.5]]), target=np.array([0.5, 1.5]), ids=np.array(["a"]))
    examples = read_npz(path, inputs="features", targets="target")
    inputs, targets = examples.batch(torch.arange(2))
    assert isinstance(inputs, torch.Tensor)
    assert (inputs.dtype, inputs.tolist()) == (torch.float32, [[1.5], [2.5]])
    assert torch.as_tensor(targets).tolist() == [0.5, 1.5]
    assert read_npz(path, inputs="features", targets=None).targets is None


def test_bytes_of_two_dimensions_are_no_images(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz", x=np.array([[3, 255]], np.uint8), y=np.array([[1]]))
    examples = read_npz(path)
    assert isinstance(examples.inputs, torch.Tensor)
    assert examples.inputs.tolist() == [[3, 255]]
    assert torch.as_tensor(examples.targets).tolist() == [1]


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = save(tmp_path / "evil.npz", x=np.array([Payload(mark)], dtype=object), y=np.zeros(1))
    with pytest.raises(DataError, match=r"evil.npz: array 'x' holds pickled Python objects, which could run code"):
        read_npz(path)
    bare = tmp_path / "bare.npz"
    bare.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(DataError, match=r"bare.npz: not an npz archive"):
        read_npz(bare)
    with zipfile.ZipFile(tmp_path / "member.npz", "w") as archive:
        archive.writestr("x.npy", pickle.dumps(Payload(mark)))
        archive.writestr("y.npy", b"")
    with pytest.raises(DataError, match=r"member.npz: 'x' is not a NumPy array"):
        read_npz(tmp_path / "member.npz")
    assert not mark.exists()


def test_damaged_archives_are_refused_by_name(tmp_path: Path) -> None:
    whole = save(tmp_path / "x.npz", x=np.arange(1000.0), y=np.arange(1000)).read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"a,b\n1,2\n"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: not an npz archive"):
            read_npz(tmp_path / name)
    flipped = bytearray(whole)
    flipped[len(whole) // 4] ^= 255
    (tmp_path / "flipped").write_bytes(flipped)
    with pytest.raises(DataError, match="flipped: cannot be read, the archive is damaged"):
        read_npz(tmp_path / "flipped")
    with pytest.raises(DataError, match="absent: no such npz file"):
        read_npz_splits(tmp_path / "absent")


def test_single_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"x.npy: not an npz archive"):
        read_npz(tmp_path / "x.npy")


def test_missing_and_unfit_arrays_are_refused(tmp_path: Path) -> None:
    images, labels = np.zeros((2, 3, 3), np.uint8), np.zeros((2, 1), np.uint8)
    path = save(tmp_path / "a.npz", train_images=images)
    with pytest.raises(DataError, match=r"a.npz: has no array 'train_labels'.*'train_images'"):
        read_npz_splits(path)
    with pytest.raises(DataError, match=r"a.npz: has no array 'train_image'; did you mean 'train_images'"):
        read_npz(path, inputs="train_image")
    with pytest.raises(DataError, match=r"b.npz: expected train_images, train_labels and their kin"):
        read_npz_splits(save(tmp_path / "b.npz", x=images))
    with pytest.raises(DataError, match=r"c.npz: expected integer class labels in 'val_labels', got float64"):
        read_npz_splits(save(tmp_path / "c.npz", val_images=images, val_labels=labels / 2))
    with pytest.raises(DataError, match=r"d.npz: expected class labels of 0 or more in 'val_labels', got -1"):
        read_npz_splits(save(tmp_path / "d.npz", val_images=images, val_labels=labels.astype(int) - 1))
    with pytest.raises(DataError, match=r"e.npz, 'test': .*inputs has 2, targets has 1"):
        read_npz_splits(save(tmp_path / "e.npz", test_images=images, test_labels=labels[:1]))
    with pytest.raises(DataError, match=r"f.npz, 'x': .*not finite"):
        read_npz(save(tmp_path / "f.npz", x=np.array([np.nan]), y=np.zeros(1)))
    with pytest.raises(DataError, match=r"g.npz, 'x': .*array of numbers, got dtype <U1"):
        read_npz(save(tmp_path / "g.npz", x=np.array(["a"]), y=np.zeros(1)))
