"""Callbacks that have two halves: what a site does by itself, and what the server does with what sites send."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hetfed_lightning.callbacks import BackboneAveraging, EnsembleDistillation, PrivateAveraging
from hetfed_lightning.cli.errors import ConfigError

DEPLOYABLE = (BackboneAveraging, PrivateAveraging, EnsembleDistillation)
"""Of exactly these kinds: a class of the user's own that inherits from one may do anything with all participants."""


def as_list(callbacks: Any) -> list[Any]:
    """What stands below ``trainer.callbacks``: a list, one alone, or nothing."""
    return list(callbacks) if isinstance(callbacks, list) else [] if callbacks is None else [callbacks]


def check_deployable(callbacks: Iterable[Any]) -> None:
    """Refuse callbacks that have no two halves.

    Raises:
        ConfigError: Naming the callback.
    """
    for place, callback in enumerate(callbacks):
        if type(callback) not in DEPLOYABLE:
            known = ", ".join(one.__name__ for one in DEPLOYABLE)
            raise ConfigError(
                f"trainer.callbacks.{place}: {type(callback).__name__} does not run between institutions; take it out. "
                f"What does: {known}."
            )
