"""Distillation mixed into the local steps of a fleet's members."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from hetfed_lightning.fleets.stack import rows_of
from hetfed_lightning.fleets.terms import FleetTerm

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.data.blocks import StackedBatch
    from hetfed_lightning.fleets.engine import Engine
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.member import Member
    from hetfed_lightning.methods.distillation.soft_targets import Lesson


class DistillationTerm(FleetTerm):
    """Distillation loss as a term of a fleet's local steps, on a public batch of each member's own.

    Args:
        lesson: Targets, temperature and weight of the round.
        fleet: Fleet whose members learn.
        public_batch: Called with a member's name and a batch index; returns indices of public examples, shape ``(B,)``,
            or None if the member does not distil. B is equal for all members of a step.
    """

    def __init__(self, lesson: Lesson, fleet: Fleet, public_batch: Callable[[str, int], Tensor | None]) -> None:
        self._lesson, self._fleet, self._public_batch = lesson, fleet, public_batch
        self._drawn: dict[tuple[str, int], tuple[Tensor, Any]] = {}

    def draw(self, member: Member, batch_idx: int) -> None:
        """Transform the public batch of one member.

        Args:
            member: Member of the fleet.
            batch_idx: Index of the local step in the round.
        """
        indices = self._public_batch(member.name, batch_idx)
        if indices is not None:
            inputs = self._lesson.inputs_of(member.local.participant, indices)
            self._drawn[member.name, batch_idx] = (indices, inputs)

    def add(self, engine: Engine, batch_idx: int, gradients: Tensor) -> None:
        """Add the gradients of the distillation loss to those of the members' own losses.

        Args:
            engine: Engine of the fleet.
            batch_idx: Index of the local step in the round.
            gradients: Gradients of the members in the first rows of the fleet's stack, shape ``(K, width)``; added to.
        """
        stack, _, _ = self._fleet.seated()
        places, block = self._block(len(gradients), batch_idx)
        if block is None:
            return
        engine, rows = engine.towards(self._lesson.losses_of(self._fleet.task)), rows_of(places)
        parameters = stack.by_key(stack.flat[rows])
        if isinstance(rows, slice):
            engine.gradients(parameters, stack.by_key(gradients[rows]), block, add=True)
        else:
            own = torch.zeros_like(gradients[rows])
            engine.gradients(parameters, stack.by_key(own), block)
            gradients[rows] += own

    def _block(self, count: int, batch_idx: int) -> tuple[list[int], StackedBatch | None]:
        """The places of those of the first ``count`` who learn in a step, and their public batches."""
        members = self._fleet.members[:count]
        if self._fleet.transforms:
            drawn = {place: self._drawn.pop((one.name, batch_idx), None) for place, one in enumerate(members)}
            self._drawn.clear()
            found = {place: both for place, both in drawn.items() if both is not None}
            indices, inputs = [own for own, _ in found.values()], [own for _, own in found.values()]
            return list(found), self._lesson.block(indices, inputs) if found else None
        batches = {place: self._public_batch(one.name, batch_idx) for place, one in enumerate(members)}
        learned = {place: indices for place, indices in batches.items() if indices is not None}
        return list(learned), self._lesson.block(list(learned.values())) if learned else None
