"""Context of a method for one participant: received tensors, memory, modules of its own."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from torch import Tensor, nn

from hetfed_lightning.tasks import Task


@dataclass(frozen=True)
class Context:
    """One participant's side of a method.

    Attributes:
        received: Tensors by key of the last result that reached the participant, of the shapes in ``Combined.state``;
            empty before the first. One copy for the whole group: not to be written to.
        memory: Tensors by key that the method keeps for this participant from round to round. Written in ``send`` and
            ``receive``; saved in checkpoints, dropped when the participant leaves, kept at its site.
        modules: Modules by name from ``Method.modules``, trained and saved with the participant.
        round_index: Index of the round, from 0.
        task: The participant's task, which knows what its outputs mean.
        head: The participant's head, for features of a method's own, if ``Method.needs_head`` asks for it; None if not.
    """

    received: Mapping[str, Tensor]
    memory: MutableMapping[str, Tensor]
    modules: Mapping[str, nn.Module]
    round_index: int
    task: Task
    head: nn.Module | None = None
