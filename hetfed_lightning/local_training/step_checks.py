"""Gradients that a participant's optimizers cannot step, found before training: closures, sparse and dense ones."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant


def check_steps(participant: Participant, optimizers: Sequence[Optimizer]) -> None:
    """Refuse optimizers that would fail in the first step.

    Args:
        participant: Owner of the optimizers; not checked if it steps them itself.
        optimizers: Optimizers from its ``configure_optimizers``.

    Raises:
        ValueError: If one would; names the participant, the optimizer and what to change.
    """
    if not participant.automatic_optimization:
        return
    for optimizer in optimizers:
        kind = type(optimizer).__name__
        if needs_closure(optimizer):
            raise ValueError(
                f"{participant.label}: {kind} evaluates the loss several times a step, by a closure, and a federation "
                "computes each batch's loss once. Set self.automatic_optimization = False in the participant and call "
                "self.optimizers().step(closure) in its training_step, or take another optimizer."
            )
    sparse = _sparse_weights(participant)
    if not sparse:
        return
    if participant.gradient_clip_val is not None:
        raise ValueError(
            f"{participant.label}: gradient_clip_val={participant.gradient_clip_val} needs the norm of all gradients, "
            f"and that of {next(iter(sparse.values()))} is sparse. Set sparse=False there, or leave out clipping."
        )
    for optimizer in optimizers:
        _check_layouts(participant, optimizer, sparse)


def check_follows(what: str, factory: Callable[..., Any] | None) -> None:
    """Refuse a callback's optimizer whose step needs a closure.

    Args:
        what: Setting that holds it, for the message.
        factory: Makes the optimizer of a list of parameters; None for no optimizer.

    Raises:
        ValueError: If it does; names the setting.
    """
    if factory is None:
        return
    try:
        made = factory([nn.Parameter(torch.zeros(2, 2))])
    except Exception:  # noqa: BLE001 - one that wants to see the real parameters is found out when it does
        return
    if isinstance(made, Optimizer) and needs_closure(made):
        raise ValueError(
            f"{what}: {type(made).__name__} evaluates the loss several times a step, by a closure, and is given a "
            "gradient once. Take SGD, Adam or another that steps without."
        )


def needs_closure(optimizer: Optimizer) -> bool:
    """True if ``step`` cannot be called without a closure, as that of LBFGS."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _sparse_weights(participant: Participant) -> dict[int, str]:
    """Modules whose weight has sparse gradients, as messages call them, by the weight's identity."""
    return {
        id(module.weight): f"{name} ({type(module).__name__}(sparse=True))"
        for name, module in participant.named_modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse and module.weight.requires_grad
    }


def _check_layouts(participant: Participant, optimizer: Optimizer, sparse: dict[int, str]) -> None:
    kind = type(optimizer).__name__
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    places = [sparse[id(parameter)] for parameter in held if id(parameter) in sparse]
    if places and not _takes(optimizer, sparse=True):
        raise ValueError(
            f"{participant.label}: {kind} takes no sparse gradients, which {places[0]} makes. Set sparse=False there, "
            "or take SGD or Adagrad."
        )
    if places and len(places) < len(held) and not _takes(optimizer, sparse=False):
        raise ValueError(
            f"{participant.label}: {kind} takes nothing but sparse gradients, which {places[0]} makes and its other "
            "layers do not. Take SGD or Adagrad, which step both."
        )


def _takes(optimizer: Optimizer, *, sparse: bool) -> bool:
    """True if an optimizer of this kind and these settings makes a step on one number with such a gradient."""
    trial = nn.Parameter(torch.zeros(1, 1))
    taken = inspect.signature(type(optimizer).__init__).parameters  # AdamW's defaults hold more than it takes.
    try:
        made = type(optimizer)([trial], **{key: value for key, value in optimizer.defaults.items() if key in taken})
    except Exception:  # noqa: BLE001 - one with a constructor of its own is found out in its first step
        return True
    gradient = torch.ones(1, 1)
    trial.grad = gradient.to_sparse() if sparse else gradient
    try:
        with warnings.catch_warnings(action="ignore"):  # They are about the trial; the first step gives them again.
            made.step()
    except Exception:  # noqa: BLE001 - torch's own are RuntimeErrors, others' may be any
        return False
    return True
