"""Convolutional network with the peak of each map as a feature, for patterns at any place of an image.

The features do not depend on the place of the pattern, so that 100 examples suffice where a network with a weight for
every place needs thousands. It has few parameters to send. Not for images whose meaning lies in places, such as digits:
take ``ConvBackbone``.

Reference:
    Oquab, Bottou, Laptev & Sivic (2015), Is object localization for free? Weakly-supervised learning with convolutional
    neural networks, section 3 (global max pooling).
"""

from torch import Tensor, nn

from hetfed_lightning.backbones.images import ImageBackbone

_SMALLEST_IMAGE = 2  # one pooling by two must leave a pixel


class PeakBackbone(ImageBackbone):
    """Features of square images by two convolutions and the peak of each map.

    Args:
        width: Channels of the first convolution; the second has twice as many.
        out_features: Width of the feature vectors.
        in_channels: Channels per image, 1 for grey, 3 for colour.
        image_size: Rows and columns per image, in pixels, at least 2.

    Raises:
        ValueError: If a size is out of its range.
    """

    def __init__(self, width: int = 8, out_features: int = 32, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__(width, out_features, in_channels, image_size, _SMALLEST_IMAGE)
        self.detectors = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, kernel_size=3, padding=1),
            nn.ReLU(),
        )
        self.project_peaks = nn.Linear(2 * width, out_features)

    def project(self, x: Tensor) -> Tensor:
        """Projection of the peak of each map, shape ``(B, out_features)``."""
        maps: Tensor = self.detectors(x)
        features: Tensor = self.project_peaks(maps.amax(dim=(2, 3)))
        return features
