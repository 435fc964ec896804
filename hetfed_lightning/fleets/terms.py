"""What a callback adds to the local loss of a fleet's members: by its gradient, for all of them at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.fleets.engine import Engine
    from hetfed_lightning.fleets.fleet import Member


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
