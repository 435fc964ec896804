"""Contexts of a fleet's members for one computation: a common tensor once, different ones stacked with a row each."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hetfed_lightning.fleets.stack import rows_of

if TYPE_CHECKING:
    from hetfed_lightning.fleets.network import Network
    from hetfed_lightning.methods.context import Context

Tensors = dict[str, dict[str, Tensor]]
"""Tensors of one context: ``"received"`` and ``"memory"``, each by key."""


@dataclass(frozen=True)
class AlikeMembers:
    """Members whose contexts agree in keys, shapes and dtypes, so that one ``vmap`` computes for all of them.

    Attributes:
        places: Their rows of the fleet's stack, ascending.
        tensors: Tensors of each method's contexts; those with a row for each member have shape ``(len(places), ...)``.
        dims: Dimension of the members in each of ``tensors``, as ``vmap`` takes it: 0, or None where all have the same.
        round_index: The round, from 0.
    """

    places: list[int]
    tensors: list[Tensors]
    dims: list[dict[str, dict[str, int | None]]]
    round_index: int

    def below(self, count: int) -> tuple[slice | list[int], list[Tensors]] | None:
        """Rows of the members among the first ``count`` and their tensors; None if there is no such member."""
        present = [place for place in self.places if place < count]
        if not present:
            return None
        if len(present) == len(self.places):
            return rows_of(present), self.tensors
        cut = [
            {part: {key: one if dims[part][key] is None else one[: len(present)] for key, one in tensors.items()}
             for part, tensors in own.items()}
            for own, dims in zip(self.tensors, self.dims, strict=True)
        ]  # fmt: skip
        return rows_of(present), cut


def alike(contexts: Sequence[Sequence[Context]], device: torch.device) -> list[AlikeMembers]:
    """Members by the layout of their contexts, in the order of each layout's first member.

    Args:
        contexts: Contexts of each member, by method, in the order of the fleet's rows.
        device: Device of the fleet.
    """
    found: dict[Hashable, list[int]] = {}
    for place, layout in enumerate(layouts(contexts)):
        found.setdefault(layout, []).append(place)
    return [_together([[own[place] for place in places] for own in contexts], places, device)
            for places in found.values()]  # fmt: skip


def layouts(contexts: Sequence[Sequence[Context]]) -> list[Hashable]:
    """Keys, shapes and dtypes of each member's contexts.

    Args:
        contexts: Contexts of each member, by method.
    """
    return [tuple((_layout(one.received), _layout(one.memory)) for one in own) for own in zip(*contexts, strict=True)]


def _layout(tensors: Mapping[str, Tensor]) -> Hashable:
    return tuple(sorted((key, tuple(one.shape), str(one.dtype)) for key, one in tensors.items()))


def _together(contexts: Sequence[Sequence[Context]], places: list[int], device: torch.device) -> AlikeMembers:
    tensors: list[Tensors] = []
    dims: list[dict[str, dict[str, int | None]]] = []
    for own in contexts:
        parts: dict[str, list[Mapping[str, Tensor]]] = {
            "received": [one.received for one in own],
            "memory": [one.memory for one in own],
        }
        joined = {part: {key: _joined([one[key] for one in held], device) for key in held[0]}
                  for part, held in parts.items()}  # fmt: skip
        tensors.append({part: {key: one for key, (one, _) in both.items()} for part, both in joined.items()})
        dims.append({part: {key: dim for key, (_, dim) in both.items()} for part, both in joined.items()})
    return AlikeMembers(places, tensors, dims, contexts[0][0].round_index)


def _joined(tensors: Sequence[Tensor], device: torch.device) -> tuple[Tensor, int | None]:
    """One tensor for all members and the dimension in which they are stacked."""
    if all(one is tensors[0] for one in tensors):
        return tensors[0].detach().to(device), None
    return torch.stack([one.detach().to(device) for one in tensors]), 0


def with_tensors(context: Context, tensors: Tensors, round_index: int, title: str, network: Network) -> Context:
    """A context of these tensors and of the network's modules, of one member, inside ``vmap``.

    Args:
        context: Any member's.
        tensors: Of the member.
        round_index: The round, from 0.
        title: Title of the method, which finds its modules.
        network: Network under the parameters of the member.
    """
    held: dict[str, Any] = dict(tensors)
    return with_network(replace(context, **held, round_index=round_index), title, network)


def with_network(context: Context, title: str, network: Network) -> Context:
    """A context of the network's modules, and of its head where the context has one.

    Args:
        context: A member's.
        title: Title of the method, which finds its modules.
        network: Network under the parameters of the member.
    """
    head = None if context.head is None else network.head
    return replace(context, modules=network.modules_of(title), head=head)
