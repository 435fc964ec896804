"""The one error of this folder: data that cannot be used as it is."""

__all__ = ["DataError"]


class DataError(ValueError):
    """Data that cannot be used: the message says where it lies, what was found and what to change."""
