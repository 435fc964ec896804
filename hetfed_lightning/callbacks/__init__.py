"""What participants do together, as Lightning callbacks: each schedules the mathematics of another package."""

from __future__ import annotations

from hetfed_lightning.callbacks.backbone_averaging import BackboneAveraging
from hetfed_lightning.callbacks.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.callbacks.inheritance import Inheritance
from hetfed_lightning.callbacks.monitor import FederationMonitor
from hetfed_lightning.callbacks.private_averaging import PrivateAveraging
from hetfed_lightning.callbacks.progress import FederatedProgressBar
from hetfed_lightning.callbacks.record import RunRecord

__all__ = [
    "BackboneAveraging",
    "EnsembleDistillation",
    "FederatedProgressBar",
    "FederationMonitor",
    "Inheritance",
    "PrivateAveraging",
    "RunRecord",
]
