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

from hetfed_lightning.backbones.backbone import Backbone
from hetfed_lightning.backbones.images import require_image
from hetfed_lightning.layers.checks import require_positive

_SMALLEST_IMAGE = 4  # two poolings by two must leave a pixel


class ConvBackbone(Backbone):
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
        super().__init__()
        owner = type(self).__name__
        require_positive(owner, width=width, out_features=out_features, in_channels=in_channels)
        if image_size < _SMALLEST_IMAGE:
            raise ValueError(
                f"{owner} expected image_size of at least {_SMALLEST_IMAGE}, got {image_size}: "
                "enlarge the images, or use MLPBackbone"
            )
        self.out_features = out_features
        self.in_channels = in_channels
        self.image_size = image_size
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

    @property
    def example_input_shape(self) -> tuple[int, ...]:
        """``(in_channels, image_size, image_size)``."""
        return (self.in_channels, self.image_size, self.image_size)

    def forward(self, x: Tensor) -> Tensor:
        """Features of a batch of images.

        Args:
            x: Shape ``(B, in_channels, image_size, image_size)``.

        Returns:
            Shape ``(B, out_features)``, none of them negative.

        Raises:
            ValueError: If the images have another shape.
        """
        require_image(x, self.in_channels, self.image_size, owner=type(self).__name__)
        maps: Tensor = self.convolutions(x)
        features: Tensor = self.project_maps(maps.flatten(1))
        return features.relu()
