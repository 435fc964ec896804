"""Check that features have the width that a head takes."""

from torch import Tensor

from hetfed_lightning.layers.checks import shape_error


def require_features(x: Tensor, in_features: int, *, owner: str) -> None:
    """Refuse features of another width than the head was built for.

    Args:
        x: The features, expected of shape ``(B, in_features)``.
        in_features: Width of the features.
        owner: Name of the class that refuses, for the message.

    Raises:
        ValueError: If the last dimension differs, or there is no batch dimension.
    """
    if x.dim() <= 1:
        change = "add the missing dimension (x.unsqueeze(0) for a batch of one)"
    elif x.shape[-1] != in_features:
        change = f"set in_features={x.shape[-1]}, or the backbone's out_features={in_features}"
    else:
        return
    raise shape_error(owner, f"features of shape (batch, {in_features})", x, change)
