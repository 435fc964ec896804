"""Checks of settings and callbacks that would void participant-level privacy, each refused with its reason."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from hetfed_lightning.aggregation import weighted_mean
from hetfed_lightning.federated_callback import FederatedCallback, Phase
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.methods.inheritance import Inheritance

log = logging.getLogger(__name__)

_TOGETHER = (Phase.DISTILLATION, Phase.AVERAGING)

VOID: Mapping[type[L.Callback], str] = {
    EnsembleDistillation: (
        "its teachers' answers reach the others without noise, and what those share afterwards tells of them. Distil "
        "without it in a run of its own, or protect examples with Participant(privacy=...) instead"
    ),
    Inheritance: (
        "what it hands over was learned from participants whom this run does not account for. Start from weights that "
        "were learned on public data"
    ),
    BackboneAveraging: "it releases states of its own, which this account does not know of. Keep one of the two",
}
"""Reason by callback that releases something beside the noised mean."""


def check_settings(rule: Any, weighting: Any, buffers: str) -> None:
    """Refuse settings of averaging under which the noise does not hide one participant.

    Args:
        rule: Aggregation rule.
        weighting: Setting ``weighting`` of the averaging.
        buffers: Setting ``buffers`` of the averaging.

    Raises:
        ValueError: If there is one; names the reason and the setting to use instead.
    """
    if rule is not weighted_mean:
        name = getattr(rule, "__name__", type(rule).__name__)
        raise ValueError(
            f"rule: expected weighted_mean, got {name}: noise is made for the most that one participant moves a mean "
            "of clipped updates; how far it moves this rule's result is not known. max_update_norm bounds liars too."
        )
    if weighting != "uniform":
        raise ValueError(
            f"weighting: expected 'uniform', got {weighting!r}: noise is made for participants of equal weight. One "
            "that weighs more is protected less than epsilon says, and numbers of examples are private themselves."
        )
    if buffers == "average":
        raise ValueError(
            "buffers: expected 'local' or 'reset', got 'average': counters cannot be noised, and noise that hides "
            "running statistics drowns them."
        )


def check_company(callbacks: Iterable[L.Callback], private: BackboneAveraging) -> None:
    """Refuse callbacks that release something without noise; warn of those that decide by private metrics.

    Args:
        callbacks: Callbacks of the run.
        private: The averaging with the privacy account.

    Raises:
        ValueError: If there is one; names the callback and the reason.
    """
    for callback in callbacks:
        for kind, reason in VOID.items():
            if callback is not private and isinstance(callback, kind):
                raise ValueError(f"PrivateAveraging beside {type(callback).__name__} protects nobody: {reason}.")
        if isinstance(callback, FederatedCallback) and callback.phase in _TOGETHER and callback is not private:
            log.warning(
                "%s acts between participants, and what it lets out is not accounted for: it must tell nobody of what "
                "another has learned since the last average.", type(callback).__name__,
            )  # fmt: skip
        if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor:
            log.warning(
                "%s(monitor=%r) chooses by a metric without noise: what is chosen tells of the data it was measured "
                "on, which epsilon does not count. Monitor a metric of public data.",
                type(callback).__name__, callback.monitor,
            )  # fmt: skip
