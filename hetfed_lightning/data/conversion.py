"""Conversion of arrays and PIL images to tensors that a network takes, without torchvision."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.labels import as_label, labels_of

__all__ = ["Converted", "as_tensor", "tensor_from_array"]

# Modes whose pixels are not plain 8-bit intensities, and the 8-bit mode of the same picture.
_PLAIN_MODE = {
    "1": "L",
    "LA": "L",
    "P": "RGB",
    "PA": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
    "HSV": "RGB",
}
_CHANNELS = (1, 3, 4)


def tensor_from_array(array: NDArray[Any]) -> Tensor:
    """Copy of an array as a tensor, of the dtypes that networks work with.

    Args:
        array: Numbers or booleans, of any shape, byte order and strides.

    Returns:
        A tensor of the same shape: float64 becomes float32, wide unsigned integers become int64, the rest keep their
        dtype.

    Raises:
        DataError: If the array holds text, objects, dates or complex numbers.
    """
    if array.dtype.kind not in "biuf":
        raise DataError(f"expected an array of numbers, got dtype {array.dtype}: encode it as numbers first")
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize > 4:
        dtype = np.dtype(np.float32)
    elif dtype.kind == "u" and dtype.itemsize > 1:
        dtype = np.dtype(np.int64)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which every caller checks for
        return torch.from_numpy(np.array(array, dtype=dtype, order="C", copy=True))


def as_tensor(sample: object) -> Tensor:
    """One sample as a tensor.

    Args:
        sample: A tensor (returned as it is), a NumPy array, or a PIL image.

    Returns:
        An image, that is a PIL image or a uint8 array of shape ``(H, W)`` or ``(H, W, C)`` with C of 1, 3 or 4: float32
        of shape ``(C, H, W)`` in [0, 1]; 16-bit greyscale is scaled by 65535. Any other array: a tensor of its shape,
        float64 as float32.

    Raises:
        DataError: If the sample is of another kind, or an image in an ambiguous layout.
    """
    if isinstance(sample, Tensor):
        return sample
    if _is_pil_image(sample):
        return _from_pil(sample)
    if not isinstance(sample, np.ndarray | np.generic):
        raise DataError(f"expected a tensor, a NumPy array or a PIL image, got {type(sample).__name__}")
    array = np.asarray(sample)
    if array.dtype == np.uint8:
        return _channels_first(array).float().div_(255)
    return tensor_from_array(array)


def is_convertible(sample: object) -> bool:
    """True if :func:`as_tensor` takes a sample of this kind: a tensor, an array of numbers or a PIL image."""
    if isinstance(sample, np.ndarray | np.generic):
        return sample.dtype.kind in "biuf"
    return isinstance(sample, Tensor) or _is_pil_image(sample)


def _channels_first(image: NDArray[np.uint8]) -> Tensor:
    if image.ndim == 2:
        return tensor_from_array(image[None])
    if image.ndim == 3 and image.shape[-1] in _CHANNELS:
        return tensor_from_array(image.transpose(2, 0, 1))
    raise DataError(
        f"expected a uint8 image of shape (H, W) or (H, W, C) with C of 1, 3 or 4, got {image.shape}: "
        "transpose it, or give a float array or a tensor, which are taken as they are"
    )


def _is_pil_image(sample: object) -> bool:
    # A PIL image exists only if Pillow has been imported, so that it need not be imported here.
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(sample, module.Image)


def _from_pil(image: Any) -> Tensor:
    if image.mode.startswith("I;16"):  # Pillow's own conversion to "L" cuts everything above 255
        pixels = np.asarray(image).astype(np.float32)
        return torch.from_numpy(pixels / 65535).unsqueeze(0)
    if image.mode in _PLAIN_MODE:
        image = image.convert(_PLAIN_MODE[image.mode])
    if image.mode not in {"L", "RGB", "RGBA"}:
        raise DataError(
            f"expected an 8- or 16-bit image, got PIL mode {image.mode!r}: convert it to 'L' or 'RGB' first"
        )
    return _channels_first(np.asarray(image)).float().div_(255)


class Converted(Dataset[Any]):
    """Map-style data set whose samples are tensors, around one whose samples are tensors, arrays or images.

    Args:
        dataset: Yields ``(input, label)`` or an input alone; an input is of a kind that :func:`as_tensor` takes, or a
            mapping of such.
        transform: Applied to every converted input, after the conversion.
        leaves_rest: True to leave values of other kinds, and samples that are no pair, to a ``collate_fn``.

    Raises:
        DataError: If the data set is empty or has no length; on access, if a sample cannot be converted (the message
            gives its index).
    """

    def __init__(
        self, dataset: Dataset[Any], transform: Callable[[Any], Any] | None = None, *, leaves_rest: bool = False
    ) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise DataError(f"expected a map-style data set with a length, got {type(dataset).__name__}")
        if len(dataset) == 0:
            raise DataError(f"the {type(dataset).__name__} to convert has no sample")
        self.dataset = dataset
        self.transform = transform
        self.leaves_rest = leaves_rest

    @property
    def targets(self) -> Tensor | None:
        """Labels of the wrapped data set, shape ``(N, ...)``; None where they cannot be had without loading samples."""
        return labels_of(self.dataset)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Sample as ``(input, label)``, or the input alone where there is no label.

        Args:
            index: Position in the data set.

        Raises:
            DataError: If the sample is no such pair or cannot be converted.
        """
        sample = self.dataset[index]
        try:
            if not isinstance(sample, tuple | list):
                return self._convert(sample)
            if len(sample) != 2:
                if self.leaves_rest:
                    return sample
                raise DataError(f"expected (input, label) or an input, got {len(sample)} values")
            return self._convert(sample[0]), self._label(sample[1])
        except DataError as error:
            raise DataError(f"sample {index} of {type(self.dataset).__name__}: {error}") from error

    def _convert(self, value: object) -> Any:
        converted: Any
        if isinstance(value, Mapping):
            converted = {key: self._part(part) for key, part in value.items()}
        else:
            converted = self._part(value)
        return converted if self.transform is None else self.transform(converted)

    def _part(self, value: object) -> Any:
        return value if self.leaves_rest and not is_convertible(value) else as_tensor(value)

    def _label(self, value: object) -> Any:
        try:
            return as_label(value)
        except DataError:
            if self.leaves_rest:
                return value
            raise
