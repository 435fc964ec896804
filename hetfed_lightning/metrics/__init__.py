"""Figures of a federation as a whole: fairness, bytes sent, agreement of teachers, divergence of networks.

Pure functions of tensors and numbers. Accuracy and the like are torchmetrics' business; here are only those of them
that it leaves undefined.
"""

from __future__ import annotations

from hetfed_lightning.intervals import Interval, mean_interval
from hetfed_lightning.metrics.agreement import agreement_matrix, mean_agreement
from hetfed_lightning.metrics.binary import BalancedAccuracy, DefinedAUROC
from hetfed_lightning.metrics.communication import payload_bytes
from hetfed_lightning.metrics.defined import undefined_because, value_of
from hetfed_lightning.metrics.divergence import state_divergence
from hetfed_lightning.metrics.effective_classes import effective_classes
from hetfed_lightning.metrics.fairness import FairnessSummary, jain_index, summarise
from hetfed_lightning.metrics.regression import DefinedR2Score

__all__ = [
    "BalancedAccuracy",
    "DefinedAUROC",
    "DefinedR2Score",
    "FairnessSummary",
    "Interval",
    "agreement_matrix",
    "effective_classes",
    "jain_index",
    "mean_agreement",
    "mean_interval",
    "payload_bytes",
    "state_divergence",
    "summarise",
    "undefined_because",
    "value_of",
]
