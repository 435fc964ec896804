"""Square images of a fixed size: the one input of the convolutional backbones."""

from torch import Tensor

from hetfed_lightning.layers.checks import shape_error


def require_image(x: Tensor, in_channels: int, image_size: int, *, owner: str) -> None:
    """Refuses a batch that holds no square images of the given size.

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
