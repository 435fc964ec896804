"""Public batches in the local steps of a fleet's members, for all of them at once."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hetfed_lightning.fleets.log_text import short_error
from hetfed_lightning.fleets.parts import narrowed
from hetfed_lightning.fleets.planned_rows import trained_in
from hetfed_lightning.fleets.public_engine import PublicEngine
from hetfed_lightning.fleets.stack import rows_of
from hetfed_lightning.fleets.terms import FleetTerm
from hetfed_lightning.local_training.local_step import seed_for
from hetfed_lightning.methods.public_examples import stacked_batch
from hetfed_lightning.methods.public_outputs import on_device

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.data.blocks import StackedBatch
    from hetfed_lightning.federation_view import FederationView, PublicBatch, PublicShape
    from hetfed_lightning.fleets.engine import Engine
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.member import Member
    from hetfed_lightning.fleets.shaping import LossShape

log = logging.getLogger(__name__)


class PublicTerm(FleetTerm):
    """Loss of public batches as a term of a fleet's local steps, each member on a batch of its own.

    Args:
        federation: The federation, in a round.
        method: Method whose loss it is.
        fleet: Fleet with its members enlisted.
    """

    def __init__(self, federation: FederationView, method: PublicShape, fleet: Fleet) -> None:
        self._federation, self.method, self._fleet = federation, method, fleet
        self._shape = method.public_shape(federation, fleet)
        self._drawn: dict[tuple[str, int], tuple[PublicBatch, Any]] = {}

    def _batch(self, member: Member, batch_idx: int) -> PublicBatch | None:
        """A member's public batch in a step; None without one."""
        found = self._federation.plans.public_at(self._federation, member.name, batch_idx)
        return next((one for one in found if one.method is self.method), None)

    def draw(self, member: Member, batch_idx: int) -> None:
        """Transform the public batch of one member.

        Args:
            member: Member of the fleet.
            batch_idx: Index of the local step in the round.
        """
        batch = self._batch(member, batch_idx)
        if batch is not None:
            inputs = inputs_of(self._federation, member, batch.indices)
            self._drawn[member.name, batch_idx] = (batch, inputs)

    def add(self, engine: Engine, batch_idx: int, gradients: Tensor) -> None:
        """Add the gradients of the public batches to those of the members' own losses.

        Args:
            engine: Engine of the fleet.
            batch_idx: Index of the local step in the round.
            gradients: Gradients of the members in the first rows of the fleet's stack, shape ``(K, width)``; added to.
        """
        stack, _, _ = self._fleet.seated()
        for places, block in self._blocks(len(gradients), batch_idx):
            rows = rows_of(places)
            parameters = stack.by_key(stack.flat[rows])
            own = self.engine(engine, places)
            if isinstance(rows, slice):
                own.gradients(parameters, stack.by_key(gradients[rows]), block, add=True)
            else:
                made = torch.zeros_like(gradients[rows])
                own.gradients(parameters, stack.by_key(made), block)
                gradients[rows] += made

    def _blocks(self, count: int, batch_idx: int) -> list[tuple[list[int], StackedBatch]]:
        """Rows among the first ``count`` that learn in a step, and their public batches, by the size of these."""
        members = self._fleet.members[:count]
        inputs: dict[int, Any] = {}
        found: dict[int, PublicBatch] = {}
        if self._fleet.transforms:
            for place, one in enumerate(members):
                if (both := self._drawn.pop((one.name, batch_idx), None)) is not None:
                    found[place], inputs[place] = both
            self._drawn.clear()
        else:
            drawn = {place: self._batch(one, batch_idx) for place, one in enumerate(members)}
            found = {place: batch for place, batch in drawn.items() if batch is not None}
        return blocks_of(self._federation, found, inputs)

    def engine(self, engine: Engine, places: Sequence[int]) -> PublicEngine:
        """Engine of the losses of the members in some rows.

        Args:
            engine: Engine of the fleet.
            places: The rows, ascending.
        """
        if list(places) == list(range(len(places))):
            return public_engine(self._fleet, engine, self.method.title, self._shape)
        device = self._fleet.seated()[0].flat.device
        return PublicEngine(engine, [self._shape.pick(places)], device)


def blocks_of(
    federation: FederationView, batches: Mapping[int, PublicBatch], inputs: Mapping[int, Any]
) -> list[tuple[list[int], StackedBatch]]:
    """Rows, ascending, and their public batches as one, for each size of batch.

    Args:
        federation: The federation, in a round.
        batches: Public batch of each row.
        inputs: Transformed inputs of each row; empty if nobody has a transform.
    """
    sizes: dict[int, list[int]] = defaultdict(list)
    for place, own in batches.items():
        sizes[own.indices.numel()].append(place)
    return [
        (
            places,
            stacked_batch(
                federation,
                [batches[place] for place in places],
                [inputs[place] for place in places] if inputs else None,
            ),
        )
        for places in sizes.values()
    ]


def inputs_of(federation: FederationView, member: Member, indices: Tensor) -> Any:
    """Public examples as inputs of a member's backbone.

    Args:
        federation: The federation, in a fit.
        member: Member of a fleet.
        indices: Places of the examples, shape ``(B,)``.
    """
    return member.local.participant.transformed(on_device(federation, indices))


def public_engine(fleet: Fleet, engine: Engine, title: str, shape: LossShape) -> PublicEngine:
    """Engine of a method's losses of public examples, kept with the fleet since compiling it anew takes long.

    Args:
        fleet: Seated fleet.
        engine: Engine of the fleet.
        title: Title of the method.
        shape: The method's losses of the fleet's members.
    """
    kept = fleet.on_public.get(title)
    if kept is None or kept.engine is not engine:
        device = fleet.seated()[0].flat.device
        kept = fleet.on_public[title] = PublicEngine(engine, [shape], device, fleet.compile_settings)
    elif kept.shapes[0] is not shape:
        kept.open_round([shape])
    return kept


def learn_in_fleets(federation: FederationView, names: Sequence[str], batch_idx: int) -> list[str]:
    """Participants that are left to learn one after another, once fleets have taken a local step on public data alone.

    Those whose method has sent them nothing yet take no step.

    Args:
        federation: The federation, in a round.
        names: Participants of this process whose step it is.
        batch_idx: Index of the step in the round.
    """
    learning = [name for name in names if federation.plans.public_at(federation, name, batch_idx)]
    left = dict.fromkeys(learning)
    for fleet, engine, members in federation.fleets.stepping(federation, learning, batch_idx):
        batches = [federation.plans.public_at(federation, one.name, batch_idx) for one in members]
        terms = {one.method: one for one in fleet.terms if isinstance(one, PublicTerm)}
        methods = {one.method for own in batches for one in own}
        if len(methods) != 1 or (method := methods.pop()) not in terms:
            continue
        of_rows = {place: own[0] for place, own in enumerate(batches)}
        try:
            found = blocks_of(federation, of_rows, _transformed(federation, fleet, members, of_rows, batch_idx))
            if len(found) != 1:
                continue
            trained = trained_in(federation, fleet, members, batch_idx)
            if trained is not None:
                trained = narrowed(trained, [fleet.of_methods] * len(members), list(fleet.layout))
            with federation.ranks.timing([one.name for one in members], federation.device):
                fleet.step(found[0][1], terms[method].engine(engine, found[0][0]), trained=trained)
        except Exception as error:  # noqa: BLE001 - whatever a fleet cannot do is left to each of its members
            log.warning("Fleets: %s: they learn on public data one after another, since a step failed (%s).",
                        fleet.label, short_error(error))  # fmt: skip
            fleet.learns_alone = True
            continue
        fleet.count_step(len(members))
        for one in members:
            del left[one.name]
    return list(left)


def _transformed(
    federation: FederationView,
    fleet: Fleet,
    members: Sequence[Member],
    batches: Mapping[int, PublicBatch],
    batch_idx: int,
) -> dict[int, Any]:
    """Inputs by row, each transformed in the stream of its member's step; empty if nobody has a transform."""
    if not fleet.transforms:
        return {}
    found = {}
    for place, one in enumerate(members):
        seed_for(federation, one.local.participant, federation.current_round, one.name, batch_idx)
        found[place] = inputs_of(federation, one, batches[place].indices)
    return found
