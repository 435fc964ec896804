"""What heads refuse: sizes below one, and features of another width.

Like the backbones' checks, but apart from them: heads and backbones know nothing of each other, so that
either may be taken alone.
"""

from collections.abc import Sequence

from torch import Tensor


def require_positive(owner: str, **sizes: int | Sequence[int]) -> None:
    """Refuses sizes below one.

    Args:
        owner: Name of the class whose constructor was called.
        **sizes: The constructor's arguments by name, each an int or a sequence of ints.

    Raises:
        ValueError: If a size, or one in a sequence, is below one.
    """
    for name, size in sizes.items():
        if any(value < 1 for value in ([size] if isinstance(size, int) else size)):
            raise ValueError(f"{owner} expected {name} of at least 1, got {size}: raise {name}")


def require_features(x: Tensor, in_features: int, *, owner: str) -> None:
    """Refuses features of another width than the head was built for.

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
    expected = f"features of shape (batch, {in_features})"
    raise ValueError(f"{owner} expected {expected}, got {tuple(x.shape)}: {change}")
