"""Callbacks with two halves, one run at each site and one at the coordinator, on all sites' messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.averaging.private_averaging import PrivateAveraging
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.methods.method import Method

DEPLOYABLE = (BackboneAveraging, PrivateAveraging, EnsembleDistillation)
"""Deployable classes. Their subclasses are not: a user's own may do anything with all participants."""


def as_list(callbacks: Any) -> list[Any]:
    """Callbacks in ``trainer.callbacks`` as a list; given a list, a single one, or None."""
    return list(callbacks) if isinstance(callbacks, list) else [] if callbacks is None else [callbacks]


def carried_methods(callbacks: Iterable[Any]) -> dict[int, Method]:
    """Methods whose messages travel by the protocol alone, by place among the callbacks."""
    return {
        place: one for place, one in enumerate(callbacks) if isinstance(one, Method) and not isinstance(one, DEPLOYABLE)
    }


def kind_of(callback: Any) -> str:
    """Name by which sites and coordinator compare a callback: of a method its title, else its class's."""
    is_carried = isinstance(callback, Method) and not isinstance(callback, DEPLOYABLE)
    return callback.title if is_carried else type(callback).__name__


def check_deployable(callbacks: Iterable[Any]) -> None:
    """Refuse callbacks without two halves.

    Raises:
        ConfigError: If there is one; names it.
    """
    for place, callback in enumerate(callbacks):
        if type(callback) not in DEPLOYABLE:
            known = ", ".join(one.__name__ for one in DEPLOYABLE)
            raise ConfigError(
                f"trainer.callbacks.{place}: {type(callback).__name__} does not run between institutions; take it out. "
                f"What does: {known}."
            )
