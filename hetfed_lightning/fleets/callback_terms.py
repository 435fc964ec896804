"""Terms and shapes of losses, asked of the callbacks of a round for one fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.shaping import LossShape
    from hetfed_lightning.fleets.terms import FleetTerm


def terms_of(federation: FederationView, fleet: Fleet) -> list[FleetTerm]:
    """Terms in the losses of a fleet's members in the round that opens: of public batches, then of callbacks.

    Args:
        federation: Federation in a fit.
        fleet: Fleet with its members enlisted.
    """
    public = federation.plans.fleet_terms(federation, fleet)
    terms = [callback.fleet_term(federation, fleet) for callback in federation.adding]
    return [*public, *(term for term in terms if term is not None)]


def shapes_of(federation: FederationView, fleet: Fleet) -> list[LossShape]:
    """Shapes that callbacks give to the losses by example of a fleet's members in the round that opens.

    Args:
        federation: Federation in a fit.
        fleet: Fleet with its members enlisted.
    """
    shapes = [callback.fleet_shape(federation, fleet) for callback in federation.shaping]
    return [shape for shape in shapes if shape is not None]
