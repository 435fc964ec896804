"""Figures of a federation, for notebooks, reports and TensorBoard alike: from plain numbers to a matplotlib ``Figure``.

The numbers of a run are in its record: ``Record.read("runs/digits/version_0")``. Needs the extra ``plots``.
"""

from __future__ import annotations

from hetfed_lightning.plots.comparisons import gain, own_against_global, residuals
from hetfed_lightning.plots.lines import bytes_per_round, mean_over, over_rounds
from hetfed_lightning.plots.matrices import confusion_matrix, label_distribution, teacher_agreement
from hetfed_lightning.plots.ranks import mean_ranks
from hetfed_lightning.plots.style import available

__all__ = [
    "available",
    "bytes_per_round",
    "confusion_matrix",
    "gain",
    "label_distribution",
    "mean_over",
    "mean_ranks",
    "over_rounds",
    "own_against_global",
    "residuals",
    "teacher_agreement",
]
