"""Terms that callbacks add to the local losses of a fleet's members, by their gradients, for all members at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.fleets.engine import Engine
    from hetfed_lightning.fleets.member import Member


class FleetTerm(ABC):
    """A term of every member's local loss in one round.

    Its gradient has to be that of the callback's ``local_loss`` for each member by itself.
    """

    def draw(self, member: Member, batch_idx: int) -> None:
        """Draw a member's random numbers, for instance by passing public inputs through its transform.

        Called in the random stream of the member's local step, after the member's own batch has been transformed. Not
        called in a fleet without transforms.

        Args:
            member: Member whose numbers are drawn.
            batch_idx: Index of the local step in the round.
        """
        del member, batch_idx  # Few terms draw anything.

    @abstractmethod
    def add(self, engine: Engine, batch_idx: int, gradients: Tensor) -> None:
        """Add the term's gradients to those of the members' own losses, before clipping.

        Args:
            engine: Engine of the fleet.
            batch_idx: Index of the local step in the round.
            gradients: Gradients of the members in the first rows of the fleet's stack, shape ``(K, width)``; added to.
        """


def adding(terms: Sequence[FleetTerm], engine: Engine, batch_idx: int) -> Callable[[Tensor], None] | None:
    """Function that adds the gradients of all terms in a local step, to shape ``(K, width)``; None without terms.

    Args:
        terms: Terms of the fleet in this round.
        engine: Engine of the fleet.
        batch_idx: Index of the local step in the round.
    """

    def add(gradients: Tensor) -> None:
        for term in terms:
            term.add(engine, batch_idx, gradients)

    return add if terms else None
