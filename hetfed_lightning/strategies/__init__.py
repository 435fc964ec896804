"""Training of a federation on one device, or divided over processes, devices and nodes."""

from __future__ import annotations

from hetfed_lightning.strategies.layout import Layout, balanced, share_of
from hetfed_lightning.strategies.ranks import Ranks
from hetfed_lightning.strategies.strategy import FederatedStrategy, register
from hetfed_lightning.strategies.watch import RankLostError

register()

__all__ = ["FederatedStrategy", "Layout", "RankLostError", "Ranks", "balanced", "share_of"]
