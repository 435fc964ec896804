"""Handwritten digits of scikit-learn, 1797 real images without a download.

Reference:
    Alpaydin, Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.
"""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.data.optional import import_optional

__all__ = ["load_digits_images"]


def load_digits_images(image_size: int = 28) -> Examples:
    """Digits as images, bilinearly resized from 8 x 8 pixels.

    Args:
        image_size: Height and width in pixels, at least 1.

    Returns:
        1797 examples: inputs of shape ``(1, image_size, image_size)``, float32 in [0, 1]; targets the digits 0 to 9.

    Raises:
        DataError: If the size is no whole number of at least 1.
        ImportError: If scikit-learn is not installed.
    """
    if not isinstance(image_size, int) or image_size < 1:
        raise DataError(f"expected image_size to be a whole number of at least 1, got {image_size!r}")
    digits = import_optional("sklearn.datasets", "scikit-learn").load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1).div_(16)
    if image_size != 8:
        images = interpolate(images, size=(image_size, image_size), mode="bilinear", align_corners=False)
    return Examples(images, torch.tensor(digits.target))
