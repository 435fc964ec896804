"""Random changes of inputs that leave their meaning as it is, drawn anew for every example of a batch.

For ``EnsembleDistillation(public_transform=...)``. They draw from torch's default generators, in training mode and in
evaluation mode alike, and have nothing to train.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RandomShift(nn.Module):
    """Images moved by a whole number of pixels, down and across, uniformly from ``-max_pixels`` to ``max_pixels``.

    What moves in from outside is zero: for images whose ground is not zero choose :class:`RandomCrop`.

    Args:
        max_pixels: Most pixels in each direction, at least 0; beyond an image's height or width it may become empty.

    Raises:
        ValueError: If ``max_pixels`` is below 0.
    """

    def __init__(self, max_pixels: int) -> None:
        super().__init__()
        if max_pixels < 0:
            raise ValueError(f"max_pixels: expected at least 0, got {max_pixels}.")
        self.max_pixels = max_pixels

    def forward(self, images: Tensor) -> Tensor:
        """Images of the same shape and dtype, each moved by a shift of its own, its channels alike.

        Args:
            images: Shape ``(B, H, W)`` or ``(B, ..., H, W)``.

        Raises:
            ValueError: If they have fewer than 3 dimensions.
        """
        _check_images(images, "RandomShift")
        most, (count, height, width) = self.max_pixels, _sizes(images)
        padded = F.pad(images.reshape(count, -1, height, width), (most, most, most, most))
        device = images.device
        shifts = torch.randint(0, 2 * most + 1, (2, count, 1), device=device)
        rows = shifts[0] + torch.arange(height, device=device)
        columns = shifts[1] + torch.arange(width, device=device)
        examples = torch.arange(count, device=device)[:, None, None]
        # The channels come last where indices stand on both sides of their dimension.
        moved = padded[examples, :, rows[:, :, None], columns[:, None, :]]
        return moved.movedim(-1, 1).reshape(images.shape)

    def extra_repr(self) -> str:
        """Settings, as ``print`` shows them."""
        return f"max_pixels={self.max_pixels}"


class RandomCrop(nn.Module):
    """Random windows of images, enlarged to the whole image's size by bilinear interpolation.

    Each window has the image's proportions. Its side, as a fraction of the image's, is uniform from ``min_side`` to 1,
    its place uniform among those inside the image.

    Args:
        min_side: Smallest side of a window as a fraction of the image's, in (0, 1].

    Raises:
        ValueError: If ``min_side`` is out of its range.
    """

    def __init__(self, min_side: float = 0.8) -> None:
        super().__init__()
        if not 0 < min_side <= 1:
            raise ValueError(f"min_side: expected a fraction in (0, 1], got {min_side}.")
        self.min_side = min_side

    def forward(self, images: Tensor) -> Tensor:
        """Images of the same shape and dtype, each of a window of its own, its channels alike.

        Args:
            images: Floating-point numbers, shape ``(B, H, W)`` or ``(B, ..., H, W)``.

        Raises:
            ValueError: If they have fewer than 3 dimensions.
        """
        _check_images(images, "RandomCrop")
        count, height, width = _sizes(images)
        flat = images.reshape(count, -1, height, width)
        flat = flat if flat.dtype == torch.float64 else flat.float()
        side = self.min_side + (1 - self.min_side) * torch.rand(count, device=flat.device, dtype=flat.dtype)
        # In coordinates from -1 to 1 a window of side s fits wherever its centre is within 1 - s of the image's.
        centres = (1 - side)[:, None] * (2 * torch.rand(count, 2, device=flat.device, dtype=flat.dtype) - 1)
        scales = side[:, None, None] * torch.eye(2, device=flat.device, dtype=flat.dtype)
        grid = F.affine_grid(torch.cat([scales, centres[:, :, None]], dim=2), list(flat.shape), align_corners=False)
        found = F.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return found.to(images.dtype).reshape(images.shape)

    def extra_repr(self) -> str:
        """Settings, as ``print`` shows them."""
        return f"min_side={self.min_side}"


class GaussianNoise(nn.Module):
    """Inputs plus independent normal noise of mean 0, in the unit of the inputs.

    Args:
        std: Standard deviation of the noise, at least 0, finite.

    Raises:
        ValueError: If ``std`` is out of its range.
    """

    def __init__(self, std: float) -> None:
        super().__init__()
        if not 0 <= std < math.inf:
            raise ValueError(f"std: expected a finite number of at least 0, got {std}.")
        self.std = std

    def forward(self, inputs: Tensor) -> Tensor:
        """Noisy inputs of the same shape and dtype.

        Args:
            inputs: Floating-point numbers of any shape, such as ``(B, D)``.
        """
        return inputs + self.std * torch.randn(inputs.shape, dtype=inputs.dtype, device=inputs.device)

    def extra_repr(self) -> str:
        """Settings, as ``print`` shows them."""
        return f"std={self.std}"


def _sizes(images: Tensor) -> tuple[int, int, int]:
    return len(images), images.shape[-2], images.shape[-1]


def _check_images(images: Tensor, who: str) -> None:
    if images.ndim < 3:
        raise ValueError(
            f"{who}: expected images of shape (B, H, W) or (B, ..., H, W), got {tuple(images.shape)}. Leave it out for "
            "inputs that are no images, or keep images in that shape and flatten them in the backbone."
        )
