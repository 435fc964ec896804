"""Callbacks' hooks around backward passes and optimizer steps, called with the participant that owns the gradients.

Lightning calls them once a batch, with the trained module. In a federation every participant takes backward passes and
steps by itself: each calls the hooks with that participant as the module and its own optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import lightning as L

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant

STEP_HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad")
"""Names of the hooks on one participant's gradients and steps."""


class FollowsSteps(Protocol):
    """Callback with a method for each optimizer step that changed a participant's weights."""

    def after_local_step(self, federation: Any, participant: Participant) -> None:
        """Called after such a step of a participant."""


class StepHooks:
    """Callbacks, and the federation, that override one of ``STEP_HOOKS``.

    Args:
        trainer: Trainer of a fit, its callbacks complete; None for no callbacks.
    """

    def __init__(self, trainer: L.Trainer | None = None, followers: Sequence[FollowsSteps] = ()) -> None:
        self._trainer = trainer
        callbacks: list[L.Callback] = [] if trainer is None else trainer.callbacks  # type: ignore[attr-defined]
        self._callbacks = {hook: [one for one in callbacks if _is_own(one, hook, L.Callback)] for hook in STEP_HOOKS}
        module = None if trainer is None else trainer.lightning_module
        self._module = {
            hook: module for hook in STEP_HOOKS if module is not None and _is_own(module, hook, L.LightningModule)
        }
        self._followers = followers

    def call(self, hook: str, participant: Participant, *args: Any) -> None:
        """Call one of ``STEP_HOOKS`` of the callbacks, of the federation, then of the participant, as Lightning does.

        Args:
            hook: Name of the hook.
            participant: Owner of the gradients, the callbacks' ``pl_module``.
            args: The loss, or the participant's optimizer.
        """
        for callback in self._callbacks[hook]:
            getattr(callback, hook)(self._trainer, participant, *args)
        if hook in self._module:
            getattr(self._module[hook], hook)(*args)
        getattr(participant, hook)(*args)

    def after_step(self, participant: Participant) -> None:
        """Call ``after_local_step`` of callbacks that follow steps; not for the student, which methods do not know."""
        federation: Any = None if self._trainer is None else self._trainer.lightning_module
        if federation is not None and participant.name in federation.members():
            for callback in self._followers:
                callback.after_local_step(federation, participant)

    @property
    def has_followers(self) -> bool:
        """True if :meth:`after_step` calls anything."""
        return bool(self._followers)

    @property
    def listener(self) -> str | None:
        """First callback or federation with a hook, and its name, such as ``"GradientNorms.on_after_backward"``."""
        for hook in STEP_HOOKS:
            heard_by = [*self._callbacks[hook], *([self._module[hook]] if hook in self._module else [])]
            if heard_by:
                return f"{type(heard_by[0]).__name__}.{hook}"
        return None


def _is_own(one: Any, hook: str, base: type) -> bool:
    return getattr(getattr(one, hook), "__func__", None) is not getattr(base, hook)
