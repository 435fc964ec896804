"""Checks of what a method adds to local losses: a loss for each example, and a scalar term of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hetfed_lightning.methods.messages import MessageError


def checked_losses(found: Any, own: Tensor, title: str) -> Tensor:
    """Losses of the examples, from what ``example_loss`` returned, shape ``(B,)``.

    Args:
        found: What it returned.
        own: Losses that it was called with, shape ``(B,)``.
        title: Name of the method.

    Raises:
        MessageError: If it is of another shape, or cut off from the network.
    """
    where = f"{title}.example_loss"
    if not isinstance(found, Tensor):
        raise MessageError(
            f"{where}: expected losses of shape {tuple(own.shape)}, got {type(found).__name__}. Return own where there "
            "is nothing to add."
        )
    if found.shape != own.shape:
        raise MessageError(
            f"{where}: expected a loss of each example, shape {tuple(own.shape)}, got shape {tuple(found.shape)}. Take "
            "means over features, not over examples, and drop dimensions of size 1 by squeeze(1)."
        )
    if own.requires_grad and not found.requires_grad:
        raise MessageError(
            f"{where}: its losses have no gradient, so that nobody trains. Leave out detach() and .item()."
        )
    return found


def checked_term(found: Any, parameters: Mapping[str, Tensor], title: str) -> Tensor:
    """Term of the loss, a scalar, from what ``weight_term`` returned; 0 for a number or None.

    Args:
        found: What it returned.
        parameters: Parameters that it was called with, by key.
        title: Name of the method.

    Raises:
        MessageError: If it is no scalar.
    """
    where = f"{title}.weight_term"
    first = next(iter(parameters.values()), torch.zeros(()))
    if found is None or isinstance(found, int | float):
        found = first.new_full((), float(found or 0))
    if not isinstance(found, Tensor) or found.numel() != 1:
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise MessageError(f"{where}: expected a scalar, got {got}. Take its sum.")
    return found.reshape(())


def changes_nothing(term: Tensor) -> bool:
    """True if a term of the loss is another number than 0, and no parameter has a gradient by it.

    Args:
        term: Term of the loss, a scalar.
    """
    if term.requires_grad:
        return False
    try:
        return float(term) != 0
    except RuntimeError:  # Inside vmap, where values are not known.
        return False
