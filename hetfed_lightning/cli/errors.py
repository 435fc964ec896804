"""The error of the command line that is shown as one sentence."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names file, participant or key."""
