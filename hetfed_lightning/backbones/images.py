"""Square images of a fixed size, as all convolutional backbones take them."""

from abc import abstractmethod

from torch import Tensor

from hetfed_lightning.backbones.backbone import Backbone
from hetfed_lightning.layers.checks import require_positive, shape_error


class ImageBackbone(Backbone):
    """Features of square images, by a subclass's :meth:`project`.

    Args:
        width: Channels of the first convolution.
        out_features: Width of the feature vectors.
        in_channels: Channels per image, 1 for grey, 3 for colour.
        image_size: Rows and columns per image, in pixels.
        smallest: Smallest ``image_size`` that the subclass takes, in pixels.

    Raises:
        ValueError: If a size is out of its range.
    """

    def __init__(self, width: int, out_features: int, in_channels: int, image_size: int, smallest: int = 1) -> None:
        super().__init__()
        owner = type(self).__name__
        require_positive(owner, width=width, out_features=out_features, in_channels=in_channels, image_size=image_size)
        if image_size < smallest:
            raise ValueError(
                f"{owner} expected image_size of at least {smallest}, got {image_size}: enlarge the images, or use "
                "MLPBackbone"
            )
        self.out_features = out_features
        self.in_channels = in_channels
        self.image_size = image_size

    @property
    def example_input_shape(self) -> tuple[int, ...]:
        """``(in_channels, image_size, image_size)``."""
        return (self.in_channels, self.image_size, self.image_size)

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """Features before the ReLU, shape ``(B, out_features)``; :meth:`forward` has checked the images' shape.

        Args:
            x: Shape ``(B, in_channels, image_size, image_size)``.

        Returns:
            Shape ``(B, out_features)``, of either sign.
        """

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
        return self.project(x).relu()


def require_image(x: Tensor, in_channels: int, image_size: int, *, owner: str) -> None:
    """Refuse a batch that holds no square images of the given size.

    Args:
        x: The batch, expected of shape ``(B, in_channels, image_size, image_size)``.
        in_channels: Channels per image, 1 for grey, 3 for colour.
        image_size: Rows and columns per image, in pixels.
        owner: Name of the class that refuses, for the message.

    Raises:
        ValueError: If the shape is another one.
    """
    if x.shape[1:] == (in_channels, image_size, image_size):
        return
    expected = f"images of shape (batch, {in_channels}, {image_size}, {image_size})"
    if x.dim() != 4:
        change = "add the missing dimension (x.unsqueeze(1) for grey images, x.unsqueeze(0) for a batch of one)"
    elif x.shape[2] != x.shape[3]:
        change = "crop or pad the images to squares in the participant's transform"
    else:
        change = f"set in_channels={x.shape[1]} and image_size={x.shape[2]}"
    raise shape_error(owner, expected, x, change)
