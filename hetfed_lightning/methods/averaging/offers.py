"""Description of a participant for averaging, as tensors: layout of its shared state, frozen weights, data size."""

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
    """Description of a participant, as tensors by key.

    Args:
        state: Shared state; only shapes and dtypes are read.
        parameters: True for each trained parameter, False for each frozen one, by key; all other keys are buffers.
        foundation: Digests of the frozen weights below shared ones, by key.
        samples: Number of training examples.
    """
    found = {}
    for key, tensor in state.items():
        kind = (TRAINED if parameters[key] else FROZEN) if key in parameters else BUFFER
        found[kind + key] = torch.empty_like(tensor, device="meta")
    for key, digest in foundation.items():
        found[GROUND + key] = torch.tensor(list(digest.encode()), dtype=torch.uint8)
    return found | {SAMPLES: torch.tensor(samples)}


def beside_offer(message: Message) -> dict[str, Tensor]:
    """Entries of a description that :func:`offer` does not make: those of a subclass of averaging."""
    own = (TRAINED, FROZEN, BUFFER, GROUND)
    return {key: one for key, one in message.items() if not key.startswith(own) and key != SAMPLES}


def layout_of(message: Message) -> dict[str, Tensor]:
    """Described tensors on the device ``"meta"``, by key."""
    kinds = (TRAINED, FROZEN, BUFFER)
    return {key.partition("/")[2]: one for key, one in message.items() if key.startswith(kinds)}


def parameters_of(message: Message, *, trained: bool = False) -> set[str]:
    """Keys of the described parameters.

    Args:
        message: Description of a participant.
        trained: Returns trained parameters alone.
    """
    kinds = (TRAINED,) if trained else (TRAINED, FROZEN)
    return {key.partition("/")[2] for key in message if key.startswith(kinds)}


def foundation_of(message: Message) -> dict[str, str]:
    """Digests of the frozen weights below the shared ones, by key."""
    return {
        key.removeprefix(GROUND): bytes(one.tolist()).decode() for key, one in message.items() if key.startswith(GROUND)
    }


def samples_of(message: Message) -> float:
    """Number of training examples that a participant claims, unchecked."""
    return message[SAMPLES].item()
