"""Error of all data: values, files or settings that cannot be used as they are."""

__all__ = ["DataError"]


class DataError(ValueError):
    """Data that cannot be used; the message says where it lies, what was found and what to change."""
