"""Participants of one architecture, trained as one batched computation.

A *fleet*'s parameters lie in one stack ``(N, ...)``. Each module's parameters are views of it, so that averaging,
checkpoints, validation and user code see them as always. Three engines train a fleet: one participant after another,
``torch.func.vmap``, and batched matrix products for stacks of linear layers. The first batch decides: each engine is
timed there, and checked against one participant after another.
"""

from hetfed_lightning.fleets.engine import EngineName
from hetfed_lightning.fleets.fleets import Fleets

__all__ = ["EngineName", "Fleets"]
