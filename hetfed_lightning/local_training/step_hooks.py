"""Callbacks' hooks around backward passes and optimizer steps, called with the participant whose gradients they are.

Lightning calls them once a batch, with the module that trains. In a federation every participant passes backward and
steps by itself: a callback hears of each, with that participant in the module's place and its own optimizer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L

from hetfed_lightning.federated_callback import acting_callbacks

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hetfed_lightning.local_training.local_optimization import LocalOptimization
    from hetfed_lightning.participants.participant import Participant

STEP_HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad")
"""Hooks that are about one participant's gradients."""


class StepHooks:
    """Callbacks, and the federation, that have one of ``STEP_HOOKS`` of their own.

    Args:
        trainer: In a fit, its callbacks complete; None where nobody is to hear anything.
    """

    def __init__(self, trainer: L.Trainer | None = None) -> None:
        self._trainer = trainer
        callbacks: list[L.Callback] = [] if trainer is None else trainer.callbacks  # type: ignore[attr-defined]
        self._callbacks = {hook: [one for one in callbacks if _is_own(one, hook, L.Callback)] for hook in STEP_HOOKS}
        module = None if trainer is None else trainer.lightning_module
        self._module = {
            hook: module for hook in STEP_HOOKS if module is not None and _is_own(module, hook, L.LightningModule)
        }
        acting = [] if trainer is None else acting_callbacks(trainer)
        self._followers = [one for one in acting if one.follows_steps()]

    def call(self, hook: str, participant: Participant, *args: Any) -> None:
        """Call one of ``STEP_HOOKS`` of the callbacks, of the federation, then of the participant, as Lightning does.

        Args:
            hook: Its name.
            participant: Whose gradients they are: the callbacks' ``pl_module``.
            args: The loss, or the participant's optimizer.
        """
        for callback in self._callbacks[hook]:
            getattr(callback, hook)(self._trainer, participant, *args)
        if hook in self._module:
            getattr(self._module[hook], hook)(*args)
        getattr(participant, hook)(*args)

    def after_step(self, participant: Participant) -> None:
        """Tell callbacks that follow steps of one that landed; the student, which no method knows, is left out."""
        federation: Any = None if self._trainer is None else self._trainer.lightning_module
        if federation is not None and participant.name in federation.members():
            for callback in self._followers:
                callback.after_local_step(federation, participant)

    @property
    def listener(self) -> str | None:
        """The first who hears of something and of what, such as ``"GradientNorms.on_after_backward"``."""
        for hook in STEP_HOOKS:
            heard_by = [*self._callbacks[hook], *([self._module[hook]] if hook in self._module else [])]
            if heard_by:
                return f"{type(heard_by[0]).__name__}.{hook}"
        return None


def _is_own(one: Any, hook: str, base: type) -> bool:
    return getattr(getattr(one, hook), "__func__", None) is not getattr(base, hook)


def hear_steps_by_hand(local: LocalOptimization) -> None:
    """Call the hooks around steps that a participant takes itself: ``on_before_optimizer_step``, and what follows them.

    Args:
        local: Of a participant whose optimizers were made for this fit.
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
