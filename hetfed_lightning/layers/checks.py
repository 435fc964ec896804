"""Refusals in one voice: expected X, got Y, what to change.

Every check looks at shapes and settings alone, never at values, so that it costs microseconds and neither
forces a device to synchronise nor stands in the way of ``torch.func.vmap``.
"""

from collections.abc import Sequence

from torch import Tensor


def shape_error(owner: str, expected: str, x: Tensor, change: str) -> ValueError:
    """The error to raise when a tensor has the wrong shape.

    Args:
        owner: Name of the class that refuses.
        expected: The shape it takes, in words and numbers.
        x: The tensor it got.
        change: What the reader can do about it, best with the constructor argument and its right value.

    Returns:
        The error, not yet raised, so that the ``raise`` stays where the check is.
    """
    return ValueError(f"{owner} expected {expected}, got {tuple(x.shape)}: {change}")


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


def require_dropout(owner: str, dropout: float) -> None:
    """Refuses a dropout that is no fraction in [0, 1): dropping everything leaves nothing to learn from.

    Args:
        owner: Name of the class whose constructor was called.
        dropout: Share of activations that is set to zero.

    Raises:
        ValueError: If the share lies outside [0, 1).
    """
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"{owner} expected dropout in [0, 1), got {dropout}: give the share of activations to drop")
