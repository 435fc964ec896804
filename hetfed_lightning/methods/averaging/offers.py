"""A participant's offer to an average, as tensors: layouts of what it would share, what that lies on, its examples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hetfed_lightning.methods.messages import Message

TRAINED, FROZEN, BUFFER, GROUND, SAMPLES = "trained/", "frozen/", "buffer/", "ground/", "samples"
"""Beginnings of keys: parameters that are trained and that are not, buffers, digests of frozen weights; a count."""


def offer(
    state: Mapping[str, Tensor],
    parameters: Mapping[str, bool],
    foundation: Mapping[str, str],
    samples: int,
) -> dict[str, Tensor]:
    """An offer.

    Args:
        state: Tensors that the participant would share, by key; only their layout is looked at.
        parameters: Whether each parameter is trained, by key; what is not among them is a buffer.
        foundation: Digests of the frozen weights that they lie on, by key.
        samples: Training examples.
    """
    found = {}
    for key, tensor in state.items():
        kind = (TRAINED if parameters[key] else FROZEN) if key in parameters else BUFFER
        found[kind + key] = torch.empty_like(tensor, device="meta")
    for key, digest in foundation.items():
        found[GROUND + key] = torch.tensor(list(digest.encode()), dtype=torch.uint8)
    return found | {SAMPLES: torch.tensor(samples)}


def layout_of(message: Message) -> dict[str, Tensor]:
    """Tensors on the device ``"meta"`` of what is offered, by key."""
    kinds = (TRAINED, FROZEN, BUFFER)
    return {key.partition("/")[2]: one for key, one in message.items() if key.startswith(kinds)}


def parameters_of(message: Message, *, trained: bool = False) -> set[str]:
    """Keys of the parameters that are offered; with ``trained`` of those that are trained."""
    kinds = (TRAINED,) if trained else (TRAINED, FROZEN)
    return {key.partition("/")[2] for key in message if key.startswith(kinds)}


def foundation_of(message: Message) -> dict[str, str]:
    """Digests of the frozen weights that an offer lies on, by key."""
    return {
        key.removeprefix(GROUND): bytes(one.tolist()).decode() for key, one in message.items() if key.startswith(GROUND)
    }


def samples_of(message: Message) -> float:
    """Training examples, as the participant claims them: whoever weighs by it looks at what it is."""
    return message[SAMPLES].item()
