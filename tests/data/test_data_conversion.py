from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset

from hetfed_lightning.data.conversion import Converted, as_tensor, tensor_from_array
from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples, labels_of


class Samples(Dataset[Any]):
    def __init__(self, *samples: object) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> object:
        return self._samples[index]


def test_a_tensor_is_returned_as_it_is() -> None:
    tensor = torch.arange(3, dtype=torch.uint8)
    assert as_tensor(tensor) is tensor


def test_a_colour_image_is_scaled_and_its_channels_come_first() -> None:
    pixels = np.zeros((2, 3, 3), dtype=np.uint8)
    pixels[0, 1] = (255, 51, 0)
    tensor = as_tensor(pixels)
    assert (tensor.shape, tensor.dtype) == ((3, 2, 3), torch.float32)
    torch.testing.assert_close(tensor[:, 0, 1], torch.tensor([1.0, 0.2, 0.0]))
    assert torch.equal(as_tensor(Image.fromarray(pixels)), tensor)


def test_a_grey_image_gets_its_channel() -> None:
    pixels = np.array([[0, 255]], dtype=np.uint8)
    assert as_tensor(pixels).tolist() == [[[0.0, 1.0]]]
    assert as_tensor(Image.fromarray(pixels)).tolist() == [[[0.0, 1.0]]]


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("CMYK", 3), ("YCbCr", 3), ("RGBA", 4), ("HSV", 3)],
)
def test_a_white_image_of_any_mode_is_white(mode: str, channels: int) -> None:
    white = Image.new("RGB", (4, 2), "white")
    image = white.convert("L").convert(mode) if mode == "LA" else white.convert(mode)
    tensor = as_tensor(image)
    assert tensor.shape == (channels, 2, 4)
    torch.testing.assert_close(tensor, torch.ones_like(tensor), rtol=0, atol=0.02)


def test_sixteen_bits_are_scaled_not_cut() -> None:
    image = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))
    torch.testing.assert_close(as_tensor(image), torch.tensor([[[0.0, 32768 / 65535, 1.0]]]))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_an_image_of_unknown_scale_is_refused(mode: str) -> None:
    with pytest.raises(DataError, match=f"got PIL mode '{mode}'"):
        as_tensor(Image.new(mode, (2, 2)))


@pytest.mark.parametrize("shape", [(3,), (3, 28, 28), (28, 28, 2), (1, 2, 3, 4)])
def test_bytes_that_are_no_image_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"uint8 image of shape .* got \("):
        as_tensor(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize("sample", [[1.0, 2.0], "cat", None, {"a": 1}])
def test_other_samples_are_refused(sample: object) -> None:
    with pytest.raises(DataError, match=f"got {type(sample).__name__}"):
        as_tensor(sample)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("<f8", torch.float32),
        (">f4", torch.float32),
        ("<f2", torch.float16),
        ("<u2", torch.int64),
        (">i4", torch.int32),
        ("u1", torch.uint8),
        ("?", torch.bool),
    ],
)
def test_arrays_of_any_byte_order_and_stride_are_copied(given: str, expected: torch.dtype) -> None:
    array = np.array([[0, 1], [1, 0]], dtype=given)[:, ::-1]
    array.flags.writeable = False
    tensor = tensor_from_array(array)
    assert tensor.dtype == expected
    assert tensor.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([None]), np.array([1j]), np.array(["2020"], "M8[Y]")])
def test_arrays_of_other_things_are_refused(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(DataError, match="array of numbers, got dtype"):
        tensor_from_array(array)


def test_converted_samples_make_a_batch() -> None:
    dataset = Converted(
        Samples(
            (Image.new("L", (2, 2), 255), 1), (np.zeros((2, 2), np.uint8), np.array([0])), (torch.ones(1, 2, 2), 1.0)
        )
    )
    assert [label.tolist() for _, label in (dataset[i] for i in range(3))] == [1, 0, 1.0]
    inputs, labels = next(iter(DataLoader(Subset(dataset, [0, 1]), batch_size=2)))
    assert (inputs.shape, inputs.dtype, labels.tolist()) == ((2, 1, 2, 2), torch.float32, [1, 0])


def test_converted_inputs_alone_and_named_ones() -> None:
    dataset = Converted(Samples(np.zeros(3), {"image": np.zeros((2, 2), np.uint8), "genes": np.ones(5)}))
    assert dataset[0].dtype == torch.float32
    assert {key: tuple(value.shape) for key, value in dataset[1].items()} == {"image": (1, 2, 2), "genes": (5,)}


def test_the_transform_sees_the_converted_input() -> None:
    dataset = Converted(Samples((np.full((1, 1), 255, np.uint8), 0)), transform=lambda image: image * 2)
    assert dataset[0][0].tolist() == [[[2.0]]]


def test_labels_are_found_through_the_conversion() -> None:
    examples = Examples(torch.zeros(2, 1), torch.tensor([1, 0]))
    assert torch.equal(torch.as_tensor(labels_of(Converted(examples))), torch.tensor([1, 0]))
    assert labels_of(Converted(Samples((np.zeros(1), 0)))) is None


def test_what_cannot_be_converted_is_refused_by_index() -> None:
    dataset = Converted(Samples((np.zeros(1), 0), ("cat", 0), (1, 2, 3), (np.zeros(1), "cat")))
    with pytest.raises(DataError, match="sample 1 of Samples: expected a tensor, a NumPy array"):
        dataset[1]
    with pytest.raises(DataError, match=r"sample 2 of Samples: .* got 3 values"):
        dataset[2]
    with pytest.raises(DataError, match="sample 3 of Samples: expected a label"):
        dataset[3]
    with pytest.raises(DataError, match="Samples to convert has no sample"):
        Converted(Samples())
    with pytest.raises(DataError, match="map-style data set with a length, got Dataset"):
        Converted(Dataset())
