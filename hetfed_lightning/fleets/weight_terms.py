"""A method's term of weights, differentiated for the members of a fleet at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from hetfed_lightning.fleets.contexts import AlikeMembers, Tensors, alike, with_network, with_tensors
from hetfed_lightning.fleets.network import without_methods
from hetfed_lightning.fleets.terms import FleetTerm

if TYPE_CHECKING:
    from hetfed_lightning.fleets.engine import Engine
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.network import Network
    from hetfed_lightning.methods.context import Context


class WeightTerm(FleetTerm):
    """Adds the gradient of a function of one member's weights and context.

    Args:
        function: Term of one member, a scalar, from its trainable parameters by key and its context.
        contexts: Context of each member, in the order of the rows.
        fleet: Fleet of the members.
        title: Title of the method, which finds its modules.
    """

    def __init__(
        self,
        function: Callable[[Mapping[str, Tensor], Context], Tensor],
        contexts: Sequence[Context],
        fleet: Fleet,
        title: str = "",
    ) -> None:
        self._function, self._fleet, self._title = function, fleet, title
        self.contexts = list(contexts)
        self._members = alike([self.contexts], _device_of(fleet))

    def pick(self, copies: Fleet, places: Sequence[int]) -> WeightTerm:
        """The same term of a fleet of copies.

        Args:
            copies: Copies of the members in ``places``.
            places: Rows of the members.
        """
        return WeightTerm(self._function, [self.contexts[place] for place in places], copies, self._title)

    def alone(self, place: int, parameters: Mapping[str, Tensor], network: Network) -> Tensor:
        """The term of the member in one row, a scalar, with its gradient left to autograd.

        Args:
            place: Row of the member.
            parameters: Its trainable parameters, by key.
            network: Network under these parameters, with the method's modules.
        """
        context = with_network(self.contexts[place], self._title, network)
        return self._function(without_methods(parameters), context)

    def add(self, engine: Engine, batch_idx: int, gradients: Tensor) -> None:
        """Add the term's gradients to those of the members' own losses, before clipping.

        Args:
            engine: Engine of the fleet.
            batch_idx: Index of the local step in the round.
            gradients: Gradients of the members in the first rows of the fleet's stack, shape ``(K, width)``; added to.
        """
        del engine, batch_idx
        stack, _, _ = self._fleet.seated()
        parameters, places = stack.by_key(stack.flat[: len(gradients)]), stack.by_key(gradients)
        for own in self._members:
            found = own.below(len(gradients))
            if found is None:
                continue
            rows, tensors = found
            made = self._gradients({key: one[rows] for key, one in parameters.items()}, own, tensors)
            for key, gradient in made.items():
                places[key][rows] += gradient

    def _gradients(self, parameters: dict[str, Tensor], own: AlikeMembers, tensors: list[Tensors]) -> dict[str, Tensor]:
        """Gradients of members whose contexts are alike, by key, shape ``(K, *shape)``."""
        network = self._fleet.network

        def term(weights: dict[str, Tensor], held: Tensors) -> Tensor:
            context = with_tensors(self.contexts[0], held, own.round_index, self._title, network)
            return network.under(weights, lambda: self._function(without_methods(weights), context))

        found: Any = vmap(grad(term), in_dims=(0, own.dims[0]))(parameters, tensors[0])
        return dict(found)


def weight_terms_of(fleet: Fleet) -> list[WeightTerm]:
    """Terms of weights that methods add to the losses of a fleet's members in this round."""
    return [term for term in fleet.terms if isinstance(term, WeightTerm)]


def _device_of(fleet: Fleet) -> torch.device:
    return next(iter(fleet.members[0].parameters.values())).device
