"""Errors of commands in words: which of them are about the input, and with which exit code they end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException

from hetfed_lightning.cli.error_messages import condensed, explained
from hetfed_lightning.cli.error_owner import FAULTS, first_lines
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.federation.quarantine import TooFewParticipantsError
from hetfed_lightning.federation.training_watch import watch_training
from hetfed_lightning.logs.undefined import UndefinedMonitorError

TOO_FEW = 1
BAD_INPUT = 2


@dataclass
class Failure:
    """End of a command that failed.

    Attributes:
        message: The error in words; empty as long as there is none.
        code: Exit code.
    """

    message: str = ""
    code: int = BAD_INPUT


@contextmanager
def failures_in_words(*, debug: bool) -> Iterator[Failure]:
    """Context that ends at an error about the input, which is then in what it yields.

    Args:
        debug: True to raise all errors but those found while reading the input.
    """
    failed = Failure()
    with watch_training() as watch:
        try:
            yield failed
        except ArgumentError as error:
            failed.message = explained(str(error))
        except ConfigError as error:
            failed.message = str(error)
        except (TooFewParticipantsError, UndefinedMonitorError) as error:
            if debug:
                raise
            failed.message = str(error)
            failed.code = TOO_FEW if isinstance(error, TooFewParticipantsError) else BAD_INPUT
        except (OSError, MisconfigurationException, *FAULTS) as error:
            if watch.begun or debug:
                raise
            failed.message = _told(error)


def _told(error: Exception) -> str:
    """An error in a sentence, with its type if it is about the program rather than its input."""
    message = condensed(first_lines(str(error)))
    if isinstance(error, ValueError | TypeError | OSError | MisconfigurationException) and message:
        return message
    return f"{type(error).__name__}: {message} (HETFED_DEBUG=1 shows where)"
