"""Layers that have no weights yet: nothing of theirs can be averaged, saved or stepped."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import is_lazy


def check_initialised(module: nn.Module, label: str) -> None:
    """Refuse lazy layers that have not seen a batch.

    Args:
        module: A participant.
        label: How messages call it.

    Raises:
        ValueError: Naming the first such layer, and what to do.
    """
    for name, layer in module.named_modules():
        own = (*layer._parameters.values(), *layer._buffers.values())
        if any(tensor is not None and is_lazy(tensor) for tensor in own):
            raise ValueError(
                f"{label}: {name} ({type(layer).__name__}) has no weights yet. Call the participant with a batch of "
                "inputs first, as participant(inputs), or give the layer's width: nn.Linear(in_features, ...) instead "
                "of nn.LazyLinear(...)."
            )
