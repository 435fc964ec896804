"""Figures about a federation as a whole: how evenly it serves, what it sends, how far apart its members are.

Pure functions of tensors and numbers; accuracy and the like are torchmetrics' business, but for what it leaves
undefined.
"""

from __future__ import annotations

from hetfed_lightning.metrics.agreement import agreement_matrix, mean_agreement
from hetfed_lightning.metrics.binary import BalancedAccuracy, DefinedAUROC
from hetfed_lightning.metrics.communication import payload_bytes
from hetfed_lightning.metrics.defined import undefined_because, value_of
from hetfed_lightning.metrics.divergence import state_divergence
from hetfed_lightning.metrics.fairness import FairnessSummary, jain_index, summarise
from hetfed_lightning.metrics.intervals import Interval, mean_interval
from hetfed_lightning.metrics.regression import DefinedR2Score

__all__ = [
    "BalancedAccuracy",
    "DefinedAUROC",
    "DefinedR2Score",
    "FairnessSummary",
    "Interval",
    "agreement_matrix",
    "jain_index",
    "mean_agreement",
    "mean_interval",
    "payload_bytes",
    "state_divergence",
    "summarise",
    "undefined_because",
    "value_of",
]
