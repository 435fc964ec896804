"""FedProx's proximal term, of one participant and of a fleet's members at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hetfed_lightning.distillation.outputs import at_least_float32
from hetfed_lightning.fleets.stack import rows_of
from hetfed_lightning.fleets.terms import FleetTerm

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.fleets.engine import Engine
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.methods.averaging.sharing_groups import SharingGroup
    from hetfed_lightning.participants.participant import Participant

CHUNK = 2**18
"""Elements whose change is held at once: that of a hundred wide networks takes four times as long in one piece."""


class Proximal:
    """Proximal term ``mu/2 ||w - w_shared||^2`` over a participant's shared parameters.

    Reference:
        Li et al. (2020), Federated Optimization in Heterogeneous Networks, eq. 2.
    """

    def __init__(self) -> None:
        self._shared: Sequence[tuple[SharingGroup, Mapping[str, Tensor]]] = []
        self._anchors: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def open_round(self, shared: Sequence[tuple[SharingGroup, Mapping[str, Tensor]]]) -> None:
        """Set the anchors of fleets for a round.

        Args:
            shared: Groups with their shared states by key, the anchors of their members.
        """
        self._shared, self._anchors = shared, {}

    def loss(self, participant: Participant, mu: float, received: Mapping[str, Tensor]) -> Tensor | None:
        """Term of one participant, a scalar; None if it is 0 for all weights.

        Args:
            participant: The participant.
            mu: Weight of the term, at least 0.
            received: Shared state that the participant received last, by key; the same all round.
        """
        name = participant.name or ""
        if name not in self._anchors:
            parameters = dict(participant.named_parameters(remove_duplicate=False))
            self._anchors[name] = [(parameters[key], one) for key, one in received.items() if key in parameters]
        if not mu or not self._anchors[name]:
            return None
        changes = [at_least_float32(parameter - anchor) for parameter, anchor in self._anchors[name]]
        return mu / 2 * torch.stack([change.square().sum() for change in changes]).sum()

    def fleet_term(self, fleet: Fleet, mu: float) -> FleetTerm | None:
        """Term of a fleet's members; None if it is 0 for all weights.

        Args:
            fleet: The fleet.
            mu: Weight of the term, at least 0.
        """
        shared = [
            (group, state)
            for group, state in self._shared
            if any(key in fleet.layout for key in group.keys) and any(name in group for name in fleet.places)
        ]
        return _ProximalTerm(mu, fleet, shared) if mu and shared else None


@dataclass(frozen=True)
class _Pull:
    """Where some members are drawn to.

    Attributes:
        places: Their rows of the stack, in order.
        columns: What they share, in pieces.
        anchor: One row for all of them, shape ``(width,)``.
    """

    places: list[int]
    columns: list[slice]
    anchor: Tensor


class _ProximalTerm(FleetTerm):
    """Adds ``mu (w - w_shared)``."""

    def __init__(self, mu: float, fleet: Fleet, shared: list[tuple[SharingGroup, Mapping[str, Tensor]]]) -> None:
        self._mu, self._fleet, self._shared = mu, fleet, shared
        self._pulls: list[_Pull] = []

    def add(self, engine: Engine, batch_idx: int, gradients: Tensor) -> None:
        """As the base class."""
        del engine, batch_idx
        stack, _, _ = self._fleet.seated()
        if not self._pulls:  # Before the first step of a run nobody has a seat.
            self._pulls = [_pull(self._fleet, group, state) for group, state in self._shared]
        for pull in self._pulls:
            for columns in pull.columns:
                few = max(1, CHUNK // (columns.stop - columns.start))
                present = [place for place in pull.places if place < len(gradients)]
                for start in range(0, len(present), few):
                    self._add(gradients, stack.flat, rows_of(present[start : start + few]), columns, pull.anchor)

    def _add(self, gradients: Tensor, flat: Tensor, rows: slice | list[int], columns: slice, anchor: Tensor) -> None:
        changed = gradients[rows, columns].add_(flat[rows, columns] - anchor[columns], alpha=self._mu)
        if not isinstance(rows, slice):
            gradients[rows, columns] = changed


def _pull(fleet: Fleet, group: SharingGroup, state: Mapping[str, Tensor]) -> _Pull:
    stack, _, _ = fleet.seated()
    places = sorted(place for name, place in fleet.places.items() if name in group)
    keys = [key for key in group.keys if key in stack.layout]  # Of the others, buffers and frozen, nothing is moved.
    anchor = torch.zeros_like(stack.flat[0])
    views = stack.by_key(anchor[None])
    for key in keys:
        views[key][0].copy_(state[key])
    return _Pull(places, stack.columns(keys), anchor)
