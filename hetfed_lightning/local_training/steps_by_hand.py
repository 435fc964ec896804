"""Hooks around the optimizer steps that a participant takes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hetfed_lightning.local_training.local_optimization import LocalOptimization


def hear_steps_by_hand(local: LocalOptimization) -> None:
    """Make steps that a participant takes itself call the hooks around optimizer steps.

    Args:
        local: Optimization of a participant whose optimizers were made for this fit.
    """
    participant = local.participant

    def before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if local.is_stepping:  # It calls the hooks itself.
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            local.hooks.call("on_before_optimizer_step", participant, optimizer)
            return None

        def heard() -> Any:
            loss = closure()
            local.hooks.call("on_before_optimizer_step", participant, optimizer)
            return loss

        return args[:1], kwargs | {"closure": heard}

    def after(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del optimizer, args, kwargs
        if not local.is_stepping:
            local.hooks.after_step(participant)

    if not participant.automatic_optimization:
        for optimizer in local.optimizers:
            optimizer.register_step_pre_hook(before)
            optimizer.register_step_post_hook(after)
