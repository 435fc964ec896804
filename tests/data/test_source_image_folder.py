from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import labels_of
from hetfed_lightning.data.sources import ImageFiles, read_image_folder


def draw(path: Path, colour: str = "white", size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    draw(root / "a" / "dog" / "2.png", "black")
    draw(root / "a" / "dog" / "1.JPG")
    draw(root / "a" / "ant" / "deep" / "3.png", "red")
    draw(root / "b" / "cat" / "1.png", "blue")
    return root


def test_classes_are_numbered_alike_for_all_participants(folder: Path) -> None:
    found = read_image_folder(folder)
    assert list(found) == ["a", "b"]
    assert all(files.classes == ("ant", "cat", "dog") for files in found.values())
    assert found["a"].targets.tolist() == [0, 2, 2]
    assert [Path(path).name for path in found["a"].paths] == ["3.png", "1.JPG", "2.png"]
    assert found["b"].targets.tolist() == [1]
    assert torch.equal(torch.as_tensor(labels_of(found["a"])), found["a"].targets)


def test_classes_are_numbered_as_they_are_named(folder: Path) -> None:
    found = read_image_folder(folder, classes=["dog", "cow", "cat", "ant"])
    assert found["a"].classes == ("dog", "cow", "cat", "ant")
    assert found["a"].targets.tolist() == [3, 0, 0]
    assert found["b"].targets.tolist() == [2]
    with pytest.raises(DataError, match=r"has a class 'cat' that is not named; did you mean 'cats'\?"):
        read_image_folder(folder, classes=["ant", "cats", "dog"])


def test_an_image_is_channels_first_between_zero_and_one(folder: Path) -> None:
    image, target = read_image_folder(folder)["a"][0]
    assert (image.shape, image.dtype) == ((3, 4, 6), torch.float32)
    assert image[:, 0, 0].tolist() == [1.0, 0.0, 0.0]
    assert (target.item(), target.dtype) == (0, torch.int64)


def test_images_are_resized_to_height_and_width_in_the_mode(folder: Path) -> None:
    assert read_image_folder(folder, image_size=8, mode="L")["b"][0][0].shape == (1, 8, 8)
    assert read_image_folder(folder, image_size=(5, 9))["b"][0][0].shape == (3, 5, 9)


def test_resizing_averages_over_what_it_leaves_out(tmp_path: Path) -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (8, 4))
    (tmp_path / "p" / "c").mkdir(parents=True)
    Image.fromarray(stripes).save(tmp_path / "p" / "c" / "x.png")
    image, _ = read_image_folder(tmp_path, image_size=2, mode="L")["p"][0]
    torch.testing.assert_close(image, torch.full((1, 2, 2), 0.5), rtol=0, atol=0.1)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path, mode: str) -> None:
    (tmp_path / "p" / "c").mkdir(parents=True)
    Image.fromarray(np.array([[0, 25700, 65535]], np.uint16)).save(tmp_path / "p" / "c" / "x.png")
    image, _ = read_image_folder(tmp_path, mode="L" if mode == "L" else "RGB")["p"][0]
    torch.testing.assert_close(image[0, 0], torch.tensor([0.0, 100 / 255, 1.0]))


def test_files_are_opened_when_asked_for(folder: Path) -> None:
    files = read_image_folder(folder)["b"]
    Path(files.paths[0]).unlink()
    with pytest.raises(DataError, match=r"images/b/cat/1.png: cannot be read as an image"):
        files[0]


def test_a_data_loader_with_workers_takes_them(folder: Path) -> None:
    files = pickle.loads(pickle.dumps(read_image_folder(folder)["a"]))
    images, targets = next(iter(DataLoader(files, batch_size=3)))
    assert (images.shape, targets.tolist()) == ((3, 3, 4, 6), [0, 2, 2])
    assert repr(files) == "ImageFiles(3 files, 3 classes, mode='RGB')"


def test_hidden_and_other_files_are_passed_over(folder: Path) -> None:
    draw(folder / "a" / "dog" / ".hidden.png")
    draw(folder / "a" / "dog" / ".thumbnails" / "1.png")
    draw(folder / ".cache" / "dog" / "1.png")
    draw(folder / "b" / ".cache" / "1.png")
    (folder / "b" / "cat" / "notes.txt").write_text("x")
    (folder / "README.md").write_text("x")
    found = read_image_folder(folder)
    assert {name: len(files) for name, files in found.items()} == {"a": 3, "b": 1}


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_image_is_refused_at_once_by_name(folder: Path, content: bytes) -> None:
    (folder / "b" / "cat" / "broken.png").write_bytes(content)
    with pytest.raises(DataError, match=r"images/b/cat/broken.png: cannot be read as an image"):
        read_image_folder(folder)
    files = read_image_folder(folder, check=False)["b"]
    with pytest.raises(DataError, match=r"broken.png: cannot be read as an image"):
        files[1]


def test_a_truncated_image_is_refused_at_once(folder: Path) -> None:
    path = folder / "b" / "cat" / "cut.png"
    noise = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"cut.png: cannot be read as an image"):
        read_image_folder(folder)


def test_an_image_too_large_to_be_honest_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow refuses twice as many
    with pytest.raises(DataError, match="decompression bomb"):
        read_image_folder(folder)
    files = read_image_folder(folder, check=False)["a"]
    with pytest.raises(DataError, match="decompression bomb"):
        files[0]


def test_sizes_that_differ_are_refused_unless_resized(folder: Path) -> None:
    draw(folder / "b" / "cat" / "2.png", size=(3, 3))
    with pytest.raises(DataError, match=r"6 x 4 in .*1.png, 3 x 3 in .*2.png: set image_size"):
        read_image_folder(folder)
    assert len(read_image_folder(folder, image_size=4)["b"]) == 2


def test_unusable_folders_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="absent: no such folder of images"):
        read_image_folder(tmp_path / "absent")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="empty: expected a folder per participant"):
        read_image_folder(empty)
    (folder / "c" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="images/c: participant 'c' has no image"):
        read_image_folder(folder)
    draw(folder / "c" / "1.png")
    with pytest.raises(DataError, match=r"images/c/1.png: lies outside of a class, expected .*<class>/1.png"):
        read_image_folder(folder)


def test_twin_names_are_refused(folder: Path) -> None:
    draw(folder / "b" / "Dog" / "1.png")
    with pytest.raises(DataError, match=r"class 'dog' of .*images/a and 'Dog' of .*images/b differ in case"):
        read_image_folder(folder)
    draw(folder / "B" / "dog" / "1.png")
    with pytest.raises(DataError, match=r"two participant names .*'B' and 'b'"):
        read_image_folder(folder)


def test_bad_settings_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="mode 'L' or 'RGB', got 'CMYK'"):
        read_image_folder(folder, mode="CMYK")  # type: ignore[arg-type]
    for size in (0, (4, 0), (4,), 2.5):
        with pytest.raises((DataError, TypeError), match=r"image_size to be a height and a width|not iterable"):
            read_image_folder(folder, image_size=size)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="as many image files as classes, at least one, got 0 and 0"):
        ImageFiles([], torch.zeros(0), ["a"])
    with pytest.raises(DataError, match="targets below 1, one per class, got 1"):
        ImageFiles(["x.png"], torch.tensor([1]), ["a"])


def test_without_pillow_the_message_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"pip install 'hetfed-lightning\[images\]'"):
        read_image_folder(folder)
