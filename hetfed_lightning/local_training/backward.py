"""Backward pass of one participant: as ``manual_backward``, with the participant's own hooks and the callbacks'.

``manual_backward`` asks every callback twice for hooks. In a federation of small networks, whose steps follow within
milliseconds, that took a fortieth of a round; here callbacks with such hooks are known beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import Strategy

if TYPE_CHECKING:
    import lightning as L
    from torch import Tensor

    from hetfed_lightning.local_training.step_hooks import StepHooks
    from hetfed_lightning.participants.participant import Participant


def is_usual(trainer: L.Trainer) -> bool:
    """True if precision plugin and strategy add nothing to a backward pass but a scaled loss.

    Args:
        trainer: Trainer of a fit.
    """
    precision, strategy = type(trainer.precision_plugin), type(trainer.strategy)
    return (
        precision.pre_backward in {Precision.pre_backward, MixedPrecision.pre_backward}
        and precision.post_backward is Precision.post_backward
        and precision.backward is Precision.backward
        and strategy.pre_backward is Strategy.pre_backward
        and strategy.post_backward is Strategy.post_backward
    )


def go_backward(
    trainer: L.Trainer, participant: Participant, loss: Tensor, hooks: StepHooks, *args: Any, **kwargs: Any
) -> None:
    """Compute the gradients of ``loss``, scaled if the precision scales, and call all hooks around it.

    Args:
        trainer: Trainer of a fit.
        participant: Owner of the loss; its ``backward`` is called, and its hooks after those of the callbacks.
        loss: Loss, a scalar with a graph.
        hooks: Callbacks' hooks.
        args: Further arguments of ``Tensor.backward``.
        kwargs: Further arguments of ``Tensor.backward``.
    """
    precision, strategy, usual = trainer.precision_plugin, trainer.strategy, is_usual(trainer)
    if not usual:
        with _unheard(trainer):
            strategy.pre_backward(loss)
            loss = precision.pre_backward(loss, trainer.lightning_module)
    elif (scaler := getattr(precision, "scaler", None)) is not None:
        loss = scaler.scale(loss)
    hooks.call("on_before_backward", participant, loss)
    precision.backward(loss, participant, None, *args, **kwargs)
    if not usual:
        with _unheard(trainer):
            loss = precision.post_backward(loss, trainer.lightning_module)
            strategy.post_backward(loss)
    hooks.call("on_after_backward", participant)


@contextmanager
def _unheard(trainer: L.Trainer) -> Iterator[None]:
    """A plugin of the user's without the callbacks, which it would call as if all gradients were one module's."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    trainer.callbacks = []  # type: ignore[attr-defined]
    try:
        yield
    finally:
        trainer.callbacks = callbacks  # type: ignore[attr-defined]
