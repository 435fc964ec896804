"""Distillation phase of a round: students learn the targets one after another, or a fleet's members together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hetfed_lightning.fleets.compatibility import faults_of_optimizers, kind_and_settings
from hetfed_lightning.fleets.log_text import short_error
from hetfed_lightning.fleets.optimizers import StackedOptimizer, stacked_optimizer
from hetfed_lightning.local_training.local_optimization import LocalOptimization
from hetfed_lightning.local_training.local_step import seed_for
from hetfed_lightning.participants.participant import STUDENT
from hetfed_lightning.seeding import stream_generator

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from hetfed_lightning.data.blocks import StackedBatch
    from hetfed_lightning.fleets.engine import Engine
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.methods.distillation.soft_targets import Lesson
    from hetfed_lightning.participants.participant import Participant

log = logging.getLogger(__name__)

Place = tuple[int, int]
"""Index of the pass over the public set, and of the step in it."""


@dataclass(frozen=True)
class LearningPhase:
    """Passes over the public set in batches, in an order of its own for each student.

    Attributes:
        lesson: Targets, temperature and weight.
        round_index: Index of the round; it seeds the orders and the draws of transforms.
        epochs: Passes, at least 1.
        batch_size: Public examples per batch, at least 1.
        optimizer: Makes the participants' optimizer of the phase; None for their own. The student keeps its own.
    """

    lesson: Lesson
    round_index: int
    epochs: int
    batch_size: int
    optimizer: Callable[[list[torch.nn.Parameter]], Optimizer] | None

    # One after another

    def alone(self, participant: Participant, local: LocalOptimization | None = None, since: Place = (0, 0)) -> None:
        """Train one participant on the targets.

        Args:
            participant: Student of the phase.
            local: Optimizers that take its steps; made or found if None.
            since: First step to take, for a phase that was begun elsewhere.
        """
        federation, plugin = self.lesson.federation, self.lesson.federation.trainer.precision_plugin
        local = self._local_of(participant) if local is None else local
        for place, indices in self._batches(participant.name or ""):
            if place < since:
                continue
            self._seed(participant, place)
            with plugin.forward_context():
                loss = self.lesson.loss(participant, indices)
            with local.scaled(plugin):
                local.descend(loss, federation.backward_of)
        local.finish()

    def _local_of(self, participant: Participant) -> LocalOptimization:
        own = self.lesson.federation.local[participant.name or ""]
        if self.optimizer is None or participant.name == STUDENT:
            return own
        return LocalOptimization(
            participant, [self.optimizer(participant.trainable_parameters())], [], own.scale, hooks=own.hooks
        )

    def _batches(self, name: str) -> Iterator[tuple[Place, Tensor]]:
        """Every step's place and public examples, shape ``(B,)``."""
        for epoch in range(self.epochs):
            stream = stream_generator(self.lesson.federation.seed, "distil", name, self.round_index, epoch)
            order = torch.randperm(len(self.lesson.targets), generator=stream)
            for step, indices in enumerate(order.split(self.batch_size)):
                yield (epoch, step), indices

    def _seed(self, participant: Participant, place: Place) -> None:
        seed_for(self.lesson.federation, participant, "distil", participant.name or "", self.round_index, *place)

    # Together

    def together(self, fleet: Fleet) -> bool:
        """Train the members of a fleet on the targets, batch by batch; True if that was possible.

        Args:
            fleet: Fleet whose members are exactly the students.

        Returns:
            False if the fleet cannot, in which case nothing has changed.
        """
        locals_ = [self._local_of(one.local.participant) for one in fleet.members]
        optimizer = None if self.optimizer is None else _stacked(fleet, locals_)
        if self.optimizer is not None and optimizer is None:
            return False
        plugin = self.lesson.federation.trainer.precision_plugin
        for steps in zip(*(self._batches(one.name) for one in fleet.members), strict=True):
            place = steps[0][0]
            try:
                with plugin.forward_context():
                    block = self._block(fleet, place, [indices for _, indices in steps])
                    fleet.step(block, self._engine_of(fleet), optimizer=optimizer)
            except Exception as error:  # noqa: BLE001 - whatever a fleet cannot do is left to each of its members
                log.warning("Fleets: %s: they distil one after another, since a step failed (%s).",
                            fleet.label, short_error(error))  # fmt: skip
                fleet.learns_alone = True
                for local in locals_:
                    self.alone(local.participant, local, place)
                break
            if optimizer is None:
                fleet.count_step(len(steps))
        return True

    def _engine_of(self, fleet: Fleet) -> Engine:
        if fleet.engine is None:
            raise RuntimeError("A fleet without an engine was to distil; this is a fault of ours.")
        return fleet.engine.towards(self.lesson.losses_of(fleet.task))

    def _block(self, fleet: Fleet, place: Place, indices: Sequence[Tensor]) -> StackedBatch:
        if not fleet.transforms:
            return self.lesson.block(indices)
        inputs = []
        for one, own in zip(fleet.members, indices, strict=True):
            self._seed(one.local.participant, place)
            inputs.append(self.lesson.inputs_of(one.local.participant, own))
        return self.lesson.block(indices, inputs)


def _stacked(fleet: Fleet, locals_: Sequence[LocalOptimization]) -> StackedOptimizer | None:
    """One optimizer for those of the phase, whose states become its views; None if they cannot be stepped as one."""
    if any(True for local in locals_ for _ in faults_of_optimizers(local.optimizers, local.participant)):
        return None
    optimizers = [local.optimizers[0] for local in locals_]
    if any(kind_and_settings(one) != kind_and_settings(optimizers[0]) for one in optimizers):
        return None
    for one, optimizer in zip(fleet.members, optimizers, strict=True):
        # In the order of the stack, in which states are laid out; the factory was given the participant's.
        optimizer.param_groups[0]["params"] = list(one.parameters.values())
    stack, _, _ = fleet.seated()
    made = stacked_optimizer(stack, optimizers)
    made.read(optimizers)
    for place, optimizer in enumerate(optimizers):
        made.pull(place, optimizer)
    return made
