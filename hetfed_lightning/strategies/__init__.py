"""Training of a federation on one device, or divided over processes, devices and nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetfed_lightning._moved import names_moved_from
from hetfed_lightning.strategies.liveness import RankLostError
from hetfed_lightning.strategies.placement import Placement, balanced, share_of
from hetfed_lightning.strategies.ranks import Ranks
from hetfed_lightning.strategies.strategy import FederatedStrategy

if not TYPE_CHECKING:
    __getattr__ = names_moved_from(__name__)

__all__ = ["FederatedStrategy", "Placement", "RankLostError", "Ranks", "balanced", "share_of"]
