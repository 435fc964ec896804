"""Mean of the teachers' probabilities without the extremes of every class: between their mean and their median.

It stands as many lying teachers as it trims at one side. Where teachers have seen different classes it silences the
only teacher of a class, as the median does: use `ClassPriorWeighted` there, if the teachers can be trusted.
"""

from __future__ import annotations

import math

from torch import Tensor

from hetfed_lightning.distillation.ensemble import Ensemble
from hetfed_lightning.distillation.outputs import renormalise, soften
from hetfed_lightning.distillation.teachers import Teachers


class TrimmedProbabilities(Ensemble):
    """Normalised mean of the softened probabilities (values for regression), the extremes of each class dropped.

    ``ceil(trim * K)`` are dropped at each side of every class, but at least one (odd K) or two (even K) kept, as in
    `hetfed_lightning.aggregation.TrimmedMean`. A sample on which all classes are trimmed to zero gets equal
    probabilities.

    Args:
        trim: Fraction in [0, 0.5) of the teachers to drop at each side; at least the fraction that may lie.

    Raises:
        ValueError: If the fraction is outside [0, 0.5).

    Reference:
        Yin, Chen, Ramchandran, Bartlett (2018). Byzantine-robust distributed learning: towards optimal
        statistical rates. ICML, Definition 2; there of gradients, here of predictions.
    """

    def __init__(self, trim: float = 0.2) -> None:
        if not 0 <= trim < 0.5:
            raise ValueError(
                f"expected trim in [0, 0.5), the fraction of teachers dropped at each side, got {trim}: "
                "for the most that can be dropped use MedianProbabilities"
            )
        self.trim = trim

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        """Trimmed mean over teachers of ``soften(logits)``, normalised over the classes.

        Args:
            teachers: Outputs of K teachers on N public samples.
            temperature: Divisor of the logits; finite and above 0.

        Returns:
            Shape ``(N, C)``, in float32 or float64.
        """
        ascending = soften(teachers.logits, temperature, teachers.kind).sort(dim=0).values
        count = len(ascending)
        # 0.14 * 50 is 7.000000000000001 in floating point: without the tolerance its ceiling is 8.
        dropped = min(math.ceil(self.trim * count - 1e-9), (count - 1) // 2)
        return renormalise(ascending[dropped : count - dropped].mean(dim=0), teachers.kind)
