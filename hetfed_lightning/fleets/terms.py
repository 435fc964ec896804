"""What a callback adds to the local loss of a fleet's members: by its gradient, for all of them at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.federation import Federation
    from hetfed_lightning.fleets.engine import Engine
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.member import Member


class FleetTerm(ABC):
    """A term of everyone's local loss in one round.

    What it adds has to be the gradient of what the callback's ``local_loss`` returns for each member by itself.
    """

    def draw(self, member: Member, batch_idx: int) -> None:
        """Do what draws random numbers for a member, such as passing inputs through its transform.

        Called in the random stream of the member's local step, after the member's own batch has been transformed; not
        called in a fleet of whom nobody transforms anything.
        """
        del member, batch_idx  # Few terms draw anything.

    @abstractmethod
    def add(self, engine: Engine, batch_idx: int, gradients: Tensor) -> None:
        """Add the term's gradients to those of the members' own losses, before clipping.

        Args:
            engine: The fleet's.
            batch_idx: Place of the local step in the round.
            gradients: Of the members in the first rows of the fleet's stack, shape ``(K, width)``; added to.
        """


def terms_of(federation: Federation, fleet: Fleet) -> list[FleetTerm]:
    """What the callbacks add to the losses of a fleet's members in the round that opens."""
    terms = [callback.fleet_term(federation, fleet) for callback in federation.adding]
    return [term for term in terms if term is not None]


def adding(terms: Sequence[FleetTerm], engine: Engine, batch_idx: int) -> Callable[[Tensor], None] | None:
    """What adds the gradients of all terms in a local step, or None if there are none."""

    def add(gradients: Tensor) -> None:
        for term in terms:
            term.add(engine, batch_idx, gradients)

    return add if terms else None
