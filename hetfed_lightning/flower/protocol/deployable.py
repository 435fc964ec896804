"""Callbacks with two halves, one run at each site and one at the coordinator, on all sites' messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning as L

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.federated_callback import FederatedCallback
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.averaging.private_averaging import PrivateAveraging
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.methods.method import Method

KNOWN = "BackboneAveraging, PrivateAveraging, EnsembleDistillation, and methods that keep to the protocol"
"""Words for what runs between institutions."""

HOOKS = (
    *(
        name
        for kind in (L.Callback, FederatedCallback)
        for name, found in vars(kind).items()
        if callable(found) and not name.startswith("_")
    ),
    *("may_exchange", "on_round_started", "work_after"),
)
"""Hooks that a method leaves as they are: the round calls them where all participants are at hand."""


ANSWERING = ("describe", "groups", "send", "message_layout", "fault_of", "receive", "teach", "pupils", "keeps_results")
"""Hooks that a subclass of EnsembleDistillation leaves as they are."""


def as_list(callbacks: Any) -> list[Any]:
    """Callbacks in ``trainer.callbacks`` as a list; given a list, a single one, or None."""
    return list(callbacks) if isinstance(callbacks, list) else [] if callbacks is None else [callbacks]


def carried_methods(callbacks: Iterable[Any]) -> dict[int, Method]:
    """Methods, whose messages travel, by place among the callbacks."""
    return {place: one for place, one in enumerate(callbacks) if isinstance(one, Method)}


def kind_of(callback: Any) -> str:
    """Name by which sites and coordinator compare a callback: of a method its title, else its class's."""
    is_own = isinstance(callback, Method) and not isinstance(callback, BackboneAveraging | EnsembleDistillation)
    return callback.title if is_own else type(callback).__name__


def is_deployable(callback: Any) -> bool:
    """True if a callback runs between institutions."""
    return isinstance(callback, Method) and not beyond_protocol(callback)


def beyond_protocol(method: Method) -> str:
    """Reason why a method does more than the protocol carries; empty if it does not.

    Args:
        method: A method.
    """
    kind, bases = type(method), (PrivateAveraging, BackboneAveraging, EnsembleDistillation, Method)
    base = next(one for one in bases if isinstance(method, one))
    if method.phase != base.phase:
        return f"acts in another phase than methods do: leave {kind.__name__}.phase as it is"
    if base is EnsembleDistillation:
        for name in ANSWERING:
            if getattr(kind, name) is not getattr(base, name):
                return (
                    f"overrides {name}, and sites bound what they answer and learn of a public set by that of "
                    "EnsembleDistillation: say it in an Ensemble, or inherit from Method"
                )
    if kind.send is not Method.send and kind.state_keys is not base.state_keys:
        return "overrides state_keys and send; between institutions a message is made by one of them"
    for name in HOOKS:
        if getattr(kind, name) is not getattr(base, name) or name in vars(method):
            return (
                f"overrides {name}, which reaches beyond the protocol of methods and is not called at sites: say it in "
                "describe, send, combine, receive, example_loss or weight_term"
            )
    return ""


def check_deployable(callbacks: Iterable[Any]) -> None:
    """Refuse callbacks without two halves.

    Raises:
        ConfigError: If there is one; names it, and of a method the hook that reaches beyond the protocol.
    """
    for place, callback in enumerate(callbacks):
        if not is_deployable(callback):
            is_method = isinstance(callback, Method)
            reason = beyond_protocol(callback) if is_method else "does not run between institutions; take it out"
            raise ConfigError(f"trainer.callbacks.{place}: {type(callback).__name__} {reason}. What does: {KNOWN}.")
