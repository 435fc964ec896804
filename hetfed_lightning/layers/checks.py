"""Checks of shapes and settings, with one form of message: expected X, got Y, change Z.

Every check looks at shapes and settings alone, never at values, so that it costs microseconds and neither forces a
device to synchronise nor stands in the way of ``torch.func.vmap``.
"""

from collections.abc import Sequence

from torch import Tensor


def shape_error(owner: str, expected: str, x: Tensor, change: str) -> ValueError:
    """Error of a tensor of the wrong shape, to be raised by the caller.

    Args:
        owner: Name of the class that refuses.
        expected: The shape it takes, in words and numbers.
        x: The tensor it got, of any shape.
        change: Remedy, best with the constructor's argument and its right value.

    Returns:
        The error, not yet raised, so that the ``raise`` stays where the check is.
    """
    return ValueError(f"{owner} expected {expected}, got {tuple(x.shape)}: {change}")


def require_positive(owner: str, **sizes: int | Sequence[int]) -> None:
    """Refuse sizes below one.

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
    """Refuse a dropout outside [0, 1); at 1 no activation would be left.

    Args:
        owner: Name of the class whose constructor was called.
        dropout: Share of activations that is set to zero.

    Raises:
        ValueError: If the share lies outside [0, 1).
    """
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"{owner} expected dropout in [0, 1), got {dropout}: give the share of activations to drop")
