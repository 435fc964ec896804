"""Mean of the teachers' probabilities with a weight per teacher and class: its share of the samples of that class.

The ensemble of choice when labels are skewed: a teacher without a single example of a class has learnt to exclude it,
and here has no weight on it. It needs class counts to travel; where these are private, use `MeanProbabilities`.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from hetfed_lightning.aggregation.shares import MAX_SHARE, bounded_counts, check_max_share
from hetfed_lightning.distillation.ensemble import Ensemble, Knowledge, mix, require
from hetfed_lightning.distillation.outputs import OutputKind, renormalise, soften
from hetfed_lightning.distillation.teachers import Teachers


class ClassPriorWeighted(Ensemble):
    """Mean of the teachers' probabilities, weighted by class: ``p(c) ~ sum_k w_kc p_k(c)``.

    The weight of teacher k on class c is ``w_kc = (n_kc + s) / sum_j (n_jc + s)``, where ``n_kc`` is its number of
    training samples of class c and ``s`` the smoothing. Multiclass targets are normalised over classes afterwards.
    Binary outputs are two classes, negatives and positives. Multilabel outputs are weighted label by label, by
    positives, and need no normalising. On a class without samples all teachers weigh alike. The counts of a teacher
    with more than ``max_share`` of all samples are scaled down to that share.

    Args:
        smoothing: Samples added to every count, at least 0; more brings the weights closer to equal.
        max_share: Largest share of one teacher in the samples of all, in (0, 1]; with fewer than three teachers nothing
            is bounded.

    Raises:
        ValueError: If the smoothing is negative or not finite, or the share is outside (0, 1].
    """

    kinds: ClassVar[tuple[OutputKind, ...]] = ("multiclass", "binary", "multilabel")
    needs: ClassVar[tuple[Knowledge, ...]] = ("class_counts",)

    def __init__(self, smoothing: float = 0.0, max_share: float = MAX_SHARE) -> None:
        check_max_share(max_share)
        if not (math.isfinite(smoothing) and smoothing >= 0):
            raise ValueError(f"expected a finite smoothing of at least 0 samples, got {smoothing}")
        self.smoothing = smoothing
        self.max_share = max_share

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        """Class-weighted mean over teachers of ``soften(logits)``, normalised over the classes.

        Args:
            teachers: Outputs of K teachers on N public samples, with `class_counts`; not regression.
            temperature: Divisor of the logits; finite and above 0.

        Returns:
            Shape ``(N, C)``, in float32 or float64.

        Raises:
            ValueError: If `class_counts` is missing, or the outputs are values without classes.
        """
        if teachers.kind == "regression":
            raise ValueError(
                "ClassPriorWeighted expects outputs with classes, got regression: "
                "use SampleWeighted, ValidationWeighted or MedianProbabilities"
            )
        probabilities = soften(teachers.logits, temperature, teachers.kind)
        counts = bounded_counts(require(teachers, "class_counts", self), self.max_share) + self.smoothing
        weights = torch.where(counts.sum(dim=0) > 0, counts, torch.ones_like(counts))
        if teachers.kind == "binary":
            both = torch.cat([1 - probabilities, probabilities], dim=-1)
            return renormalise(mix(both, weights), "multiclass")[:, 1:]
        return renormalise(mix(probabilities, weights), teachers.kind)
