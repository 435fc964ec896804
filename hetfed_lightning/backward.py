"""One participant's backward pass: what ``manual_backward`` does, less the calls that nobody listens to.

``manual_backward`` asks every callback twice whether it wants to hear of the pass. For a federation of small networks,
whose steps follow each other within milliseconds, that was a fortieth of a round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning as L
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.participant import Participant

_HOOKS = ("on_before_backward", "on_after_backward")


def is_heard(trainer: L.Trainer) -> bool:
    """Whether a callback, the federation, the precision plugin or the strategy does something around a backward pass.

    Args:
        trainer: In a fit, its callbacks complete.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    precision, strategy = type(trainer.precision_plugin), type(trainer.strategy)
    as_usual = (
        precision.pre_backward in {Precision.pre_backward, MixedPrecision.pre_backward}
        and precision.post_backward is Precision.post_backward
        and precision.backward is Precision.backward
        and strategy.pre_backward is Strategy.pre_backward
        and strategy.post_backward is Strategy.post_backward
    )
    bases = [*((one, L.Callback) for one in callbacks), (trainer.lightning_module, L.LightningModule)]
    return not as_usual or any(
        getattr(getattr(one, hook), "__func__", None) is not getattr(base, hook)
        for hook in _HOOKS
        for one, base in bases
    )


def go_backward(trainer: L.Trainer, participant: Participant, loss: Tensor, *, heard: bool) -> None:
    """Gradients of ``loss``, scaled where the precision asks for it, by way of the participant's own hooks.

    Args:
        trainer: In a fit.
        participant: Whose ``on_before_backward``, ``backward`` and ``on_after_backward`` are called.
        loss: A scalar with a graph.
        heard: What :func:`is_heard` says of the trainer.
    """
    precision, strategy = trainer.precision_plugin, trainer.strategy
    if heard:
        strategy.pre_backward(loss)
        loss = precision.pre_backward(loss, trainer.lightning_module)
    elif (scaler := getattr(precision, "scaler", None)) is not None:
        loss = scaler.scale(loss)
    participant.on_before_backward(loss)
    precision.backward(loss, participant, None)
    if heard:
        loss = precision.post_backward(loss, trainer.lightning_module)
        strategy.post_backward(loss)
    participant.on_after_backward()
