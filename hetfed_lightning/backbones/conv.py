"""A small convolutional network: two blocks of 3x3 convolutions, the workhorse for small images on a CPU.

The shape is that of LeNet-5 with today's parts (3x3 kernels, ReLU, maximum pooling). It has no normalisation
on purpose: the running statistics of a batch normalisation describe one participant's data, and averaging
them over participants with different data ruins every model (validation accuracy .93 became .12 in our
trials). Where depth makes normalisation necessary, take ``ResidualBackbone``.

Reference:
    LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning applied to document recognition,
    section II.
"""

from torch import Tensor, nn

from hetfed_lightning.backbones.images import ImageBackbone

_SMALLEST_IMAGE = 4  # two poolings by two must leave a pixel


class ConvBackbone(ImageBackbone):
    """Features of square images by two convolutions, each followed by ReLU and 2x2 maximum pooling.

    Args:
        width: Channels of the first convolution; the second has twice as many.
        out_features: Width of the feature vectors.
        in_channels: Channels per image, 1 for grey, 3 for colour.
        image_size: Rows and columns per image, in pixels, at least 4.

    Raises:
        ValueError: If a size is out of its range.
    """

    def __init__(self, width: int = 16, out_features: int = 64, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__(width, out_features, in_channels, image_size, _SMALLEST_IMAGE)
        self.convolutions = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        pixels_left = (image_size // 4) ** 2
        self.project_maps = nn.Linear(2 * width * pixels_left, out_features)

    def project(self, x: Tensor) -> Tensor:
        """Projection of the flattened maps, shape ``(B, out_features)``."""
        maps: Tensor = self.convolutions(x)
        features: Tensor = self.project_maps(maps.flatten(1))
        return features
