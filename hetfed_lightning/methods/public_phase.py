"""Steps on public data alone beside the local ones, of all members of a fleet at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hetfed_lightning.fleets.compatibility import faults_of_optimizers, kind_and_settings
from hetfed_lightning.fleets.log_text import short_error
from hetfed_lightning.fleets.optimizers import StackedOptimizer, stacked_optimizer
from hetfed_lightning.fleets.parts import Trained, narrowed
from hetfed_lightning.fleets.planned_rows import keys_trained
from hetfed_lightning.local_training.local_step import seed_for
from hetfed_lightning.methods.plans import Part, Span, spans
from hetfed_lightning.methods.public_batches import PublicOrders
from hetfed_lightning.methods.public_examples import stacked_batch
from hetfed_lightning.methods.public_fleets import inputs_of, public_engine

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hetfed_lightning.data.blocks import StackedBatch
    from hetfed_lightning.federation_view import FederationView, PublicShape
    from hetfed_lightning.fleets.fleet import Fleet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublicPhase:
    """Parts of a plan, all on public data, that several participants work on at one moment of a round.

    Attributes:
        federation: The federation, in a round.
        method: Method that plans, whose loss it is.
        parts: The parts.
        stream: First name of the streams that order the examples and seed the draws of transforms.
        round_index: Index of the round, from 0.
    """

    federation: FederationView
    method: PublicShape
    parts: Sequence[Part]
    stream: str
    round_index: int

    def together(self, fleet: Fleet) -> int:
        """Number of steps that the members of a fleet have taken at once.

        Members go on one after another with the step that has failed, and from the first if a fleet cannot learn. The
        part in progress stays with each member.

        Args:
            fleet: Seated fleet whose members are exactly those who learn.
        """
        engine = fleet.engine
        if engine is None or fleet.network.modules_of(self.method.title):  # Whether they are used is not known.
            return 0
        shape = self.method.public_shape(self.federation, fleet)
        own = public_engine(fleet, engine, self.method.title, shape)
        size, orders = self.federation.federated_data.num_public, PublicOrders()
        total = sum(part.batches(0, size) for part in self.parts)
        done = 0
        for span in spans(self.parts, 0, total, size):
            for one in fleet.members:
                one.local.enter(span.index, span.part)
            optimizer = None
            if span.part.optimizer is not None and (optimizer := _stacked(fleet)) is None:
                return done
            count = len(fleet.members)
            keys = None if span.part.trains_everything else keys_trained(fleet, span.part.patterns)
            trained = None if keys is None else narrowed(
                (Trained(slice(0, count), keys),), [fleet.of_methods] * count, list(fleet.layout)
            )  # fmt: skip
            for step in range(span.start, span.stop):
                try:
                    with self.federation.trainer.precision_plugin.forward_context():
                        fleet.step(self._block(fleet, span, step, orders), own, optimizer=optimizer, trained=trained)
                except Exception as error:  # noqa: BLE001 - whatever a fleet cannot do is left to each of its members
                    log.warning("Fleets: %s: they learn on public data one after another, since a step failed (%s).",
                                fleet.label, short_error(error))  # fmt: skip
                    fleet.learns_alone = True
                    return done
                done += 1
                if optimizer is None:
                    fleet.count_step(count)
        return done

    def _block(self, fleet: Fleet, span: Span, step: int, orders: PublicOrders) -> StackedBatch:
        place = span.place(step, self.federation.federated_data.num_public)
        size, members = span.part.batch_size, fleet.members
        batches = [
            orders.batch(self.federation, self.method, self.stream, one.name, self.round_index, size, place)
            for one in members
        ]
        if not fleet.transforms:
            return stacked_batch(self.federation, batches)
        inputs = []
        for one, own in zip(fleet.members, batches, strict=True):
            seed_for(self.federation, one.local.participant, *own.stream)
            inputs.append(inputs_of(self.federation, one, own.indices))
        return stacked_batch(self.federation, batches, inputs)


def _stacked(fleet: Fleet) -> StackedOptimizer | None:
    """One optimizer for the members' parts, whose states become its views; None if they cannot be stepped as one."""
    locals_ = [one.local for one in fleet.members]
    if any(True for local in locals_ for _ in faults_of_optimizers(local.stepping, local.participant)):
        return None
    optimizers: list[Optimizer] = [local.stepping[0] for local in locals_]
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
