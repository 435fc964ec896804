"""Checks of a participant's layers: uninitialised lazy layers, and tensors that overlap in memory."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import is_lazy

from hetfed_lightning.participants.inseparable import overlapping


def check_initialised(module: nn.Module, label: str) -> None:
    """Refuse lazy layers that are not initialised.

    Args:
        module: Participant.
        label: Participant in error messages.

    Raises:
        ValueError: If there is one; names the first such layer and the remedy.
    """
    for name, layer in module.named_modules():
        own = (*layer._parameters.values(), *layer._buffers.values())
        if any(tensor is not None and is_lazy(tensor) for tensor in own):
            raise ValueError(
                f"{label}: {name} ({type(layer).__name__}) has no weights yet. Call the participant with a batch of "
                "inputs first, as participant(inputs), or give the layer's width: nn.Linear(in_features, ...) instead "
                "of nn.LazyLinear(...)."
            )


def check_memory(module: nn.Module, label: str) -> None:
    """Refuse tensors that are different objects in the same memory.

    Args:
        module: Participant.
        label: Participant in error messages.

    Raises:
        ValueError: If there are two; names both and how to tie them.
    """
    if pair := overlapping(module.state_dict(keep_vars=True)):
        one, other = pair
        raise ValueError(
            f"{label}: {one} and {other} lie in the same memory and are two objects: averaging, a move to a device or "
            "a checkpoint would part them. Tie them by giving both modules one nn.Parameter, as head.weight = "
            "embedding.weight, or clone one of them."
        )
