"""Tensors that a method has at hand for one participant: received, remembered, and modules of its own."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Context:
    """One participant's side of a method.

    Attributes:
        received: Tensors of the last result that reached the participant; empty before the first. One copy for all of
            a group: not to be written to.
        memory: Tensors that the method keeps for this participant from round to round, by key. Written in ``send``
            and ``receive``; saved in checkpoints, gone when the participant leaves, kept at its site.
        modules: Modules of the method's own, trained and saved with the participant.
        round_index: The round, from 0.
    """

    received: Mapping[str, Tensor]
    memory: MutableMapping[str, Tensor]
    modules: Mapping[str, nn.Module]
    round_index: int
