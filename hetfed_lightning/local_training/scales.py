"""Loss scales of all participants of a run, and numbers of skipped steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hetfed_lightning.local_training.loss_scale import LossScale

if TYPE_CHECKING:
    from lightning.pytorch.plugins.precision import Precision

    from hetfed_lightning.local_training.local_optimization import LocalOptimization


def give_scales(
    local: Mapping[str, LocalOptimization], precision: Precision, saved: Mapping[str, Mapping[str, Any]]
) -> None:
    """Give every participant a copy of the trainer's loss scale, if its precision has one.

    Args:
        local: Optimization by participant; changed in place.
        precision: Precision plugin of the trainer.
        saved: States from a checkpoint by participant; may lack some.
    """
    template = getattr(precision, "scaler", None)
    for name, own in local.items():
        own.scale = None if template is None else LossScale(template)
        if own.scale is not None:
            own.scale.load_state_dict(saved.get(name, {}))


def skipped_steps(local: Mapping[str, LocalOptimization]) -> dict[str, int]:
    """Number of the round's steps with a non-finite gradient, by participant; empty without loss scaling."""
    scaled = [own.skipped for own in local.values() if own.scale is not None]
    return {"skipped_steps": sum(scaled)} if scaled else {}
