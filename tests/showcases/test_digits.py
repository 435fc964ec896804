from __future__ import annotations

import sys

import pytest
import torch
from sklearn.datasets import load_digits

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.showcases import load_digits_images


def test_digits_at_their_own_size_are_scikit_learns() -> None:
    examples = load_digits_images(image_size=8)
    raw = load_digits()
    assert isinstance(examples.inputs, torch.Tensor)
    assert torch.equal(examples.inputs[:, 0], torch.tensor(raw.images / 16, dtype=torch.float32))
    assert torch.equal(torch.as_tensor(examples.targets), torch.tensor(raw.target))


def test_digits_are_resized_within_their_range() -> None:
    examples = load_digits_images()
    assert isinstance(examples.inputs, torch.Tensor)
    assert examples.inputs.shape == (1797, 1, 28, 28)
    assert [extreme.item() for extreme in examples.inputs.aminmax()] == [0, 1]
    assert torch.as_tensor(examples.targets).unique().tolist() == list(range(10))


def test_resizing_is_bilinear_between_pixel_centres() -> None:
    # From 8 to 16 pixels, the new centres lie a quarter pixel beside the old: 0.75 of the nearer, 0.25 of the other.
    small = load_digits_images(8).inputs
    large = load_digits_images(16).inputs
    assert isinstance(small, torch.Tensor)
    assert isinstance(large, torch.Tensor)
    torch.testing.assert_close(large[:, 0, 0, 1], 0.75 * small[:, 0, 0, 0] + 0.25 * small[:, 0, 0, 1])


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_bad_size_is_refused(size: int) -> None:
    with pytest.raises(DataError, match="image_size to be a whole number of at least 1, got"):
        load_digits_images(size)


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install 'scikit-learn'"):
        load_digits_images()
