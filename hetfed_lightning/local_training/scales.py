"""Loss scales of a run: one for each participant as a fit begins, and the steps that they skipped."""

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
    """Give every participant a scale like the trainer's, where the precision scales at all.

    Args:
        local: By participant; changed in place.
        precision: The trainer's plugin.
        saved: States from a checkpoint by participant; may lack some.
    """
    template = getattr(precision, "scaler", None)
    for name, own in local.items():
        own.scale = None if template is None else LossScale(template)
        if own.scale is not None:
            own.scale.load_state_dict(saved.get(name, {}))


def skipped_steps(local: Mapping[str, LocalOptimization]) -> dict[str, int]:
    """Steps of the round that met an infinite gradient, of all who trained in it; nothing where none is scaled."""
    scaled = [own.skipped for own in local.values() if own.scale is not None]
    return {"skipped_steps": sum(scaled)} if scaled else {}
