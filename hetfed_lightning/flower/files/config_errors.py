"""Errors in a deployment's files, with the file's name before them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jsonargparse import ArgumentError

from hetfed_lightning.cli.error_messages import explained
from hetfed_lightning.cli.error_owner import FAULTS, first_lines
from hetfed_lightning.cli.errors import ConfigError

OPTION = "--allow_import "
"""Option by which the command line allows more packages."""


@contextmanager
def naming_file(path: Path, option: str = OPTION) -> Iterator[None]:
    """Context that begins errors with the name of the file that is read.

    Args:
        path: The file.
        option: Option that allows a denied name, for messages.

    Raises:
        ConfigError: If anything is wrong with the file.
    """
    try:
        with warnings.catch_warnings():
            # The arguments of this process are another program's.
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended to run from within")
            yield
    except (ArgumentError, OSError, *FAULTS) as error:
        message = first_lines(str(error)) or type(error).__name__
        message = message.replace(OPTION, option) if isinstance(error, ConfigError) else explained(message, option)
        raise ConfigError(message if message.startswith(str(path)) else f"{path}: {message}") from error
