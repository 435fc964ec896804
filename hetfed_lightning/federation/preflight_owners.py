"""Check that each optimizer and scheduler belongs to one participant; a factory might return the same one for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hetfed_lightning.local_training.local_optimization import LocalOptimization


def check_owners(local: Mapping[str, LocalOptimization]) -> None:
    """Refuse optimizers and schedulers of two participants, and those that step another one's parameters.

    Args:
        local: Optimization by participant.

    Raises:
        ValueError: If there is one; names both participants and what to change.
    """
    owners: dict[int, str] = {}
    held = {id(one): name for name, own in local.items() for one in own.participant.parameters()}
    for name, own in local.items():
        for made in (*own.optimizers, *(schedule.scheduler for schedule in own.schedules)):
            owner = owners.setdefault(id(made), name)
            if owner != name:
                raise ValueError(
                    f"participants {owner!r} and {name!r} have one {type(made).__name__}: their factory gives everyone "
                    "the same object. Make a new one at each call, as lambda p: torch.optim.SGD(p, lr=0.1)."
                )
        for optimizer in own.optimizers:
            stepped = [id(one) for group in optimizer.param_groups for one in group["params"]]
            others = sorted({held[one] for one in stepped if held.get(one, name) != name})
            if others or (stepped and not any(one in held for one in stepped)):
                whose = f"those of {others[0]!r}" if others else "none of its own"
                raise ValueError(
                    f"participant {name!r}: its {type(optimizer).__name__} steps {whose}. Make the optimizer of the "
                    "parameters that its factory is called with."
                )
        for schedule in own.schedules:
            followed = getattr(schedule.scheduler, "optimizer", None)
            if followed is not None and all(followed is not one for one in own.optimizers):
                raise ValueError(
                    f"participant {name!r}: its {type(schedule.scheduler).__name__} follows an optimizer that is not "
                    "its own. Make the scheduler of the optimizer that its factory is called with."
                )
