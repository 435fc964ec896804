"""Participants of one architecture, trained as one batched computation.

A *fleet*'s parameters lie in one stack ``(N, ...)`` of which each module's parameters are views, so that averaging,
checkpoints, validation and user code see them as always. Three engines train it: one participant after another,
``torch.func.vmap``, and batched matrix products for stacks of linear layers; which is fastest is measured on the first
batch, and whether it computes the same is checked there too.
"""

from hetfed_lightning.fleets.engine import EngineName
from hetfed_lightning.fleets.fleets import Fleets

__all__ = ["EngineName", "Fleets"]
