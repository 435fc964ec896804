"""Code of the user's that runs in a round and may change participants behind a fleet's back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.callbacks import LambdaCallback

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView

_KNOWN = frozenset({"hetfed_lightning", "lightning", "torch", "torchmetrics", "torchvision", "builtins"})
"""Packages whose classes leave participants alone between steps, or write in place, which a fleet notices."""

_BETWEEN_STEPS = ("on_train_batch_start", "on_train_batch_end")


def bystanders(federation: FederationView) -> list[Any]:
    """Callbacks, modules and data sets of the user's own classes.

    A callback that reads and changes nothing, such as a clock, sets the class attribute ``changes_participants =
    False`` and is left out.

    Args:
        federation: Federation in a fit.
    """
    return [one for one in _everything(federation) if not _is_known(one) and not _only_looks(one)]


def runs_between_steps(bystander: Any) -> bool:
    """True if one of :func:`bystanders` may be called between the local steps of a round."""
    return not isinstance(bystander, L.Callback) or any(
        getattr(getattr(bystander, hook), "__func__", None) is not getattr(L.Callback, hook) for hook in _BETWEEN_STEPS
    )


def _only_looks(one: Any) -> bool:
    return isinstance(one, L.Callback) and getattr(one, "changes_participants", True) is False


def _is_known(one: Any) -> bool:
    given = isinstance(one, LambdaCallback) or (
        isinstance(one, L.Callback) and any(name.startswith("on_") for name in vars(one))
    )
    return not given and type(one).__module__.partition(".")[0] in _KNOWN


def _everything(federation: FederationView) -> Iterator[Any]:
    yield federation
    yield federation.federated_data
    yield from federation.trainer.callbacks  # type: ignore[attr-defined]  # the Trainer sets it where no checker looks
    seen: set[type] = set()
    for participant in federation.members().values():
        for one in (participant, participant.task, participant.transform, participant.target_transform):
            if type(one) not in seen:
                seen.add(type(one))
                yield one
