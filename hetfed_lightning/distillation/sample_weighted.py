"""Mean of the teachers' probabilities, weighted by their numbers of training samples.

Sensible when more data means a better teacher. The numbers are the teachers' own word, so no weight exceeds a share of
all.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from hetfed_lightning.aggregation.shares import MAX_SHARE, bounded_weights, check_max_share
from hetfed_lightning.distillation.ensemble import Ensemble, Knowledge, mix, require
from hetfed_lightning.distillation.outputs import soften
from hetfed_lightning.distillation.teachers import Teachers


class SampleWeighted(Ensemble):
    """Mean of the softened probabilities (values for regression) with weights ``n_k / sum_j n_j``.

    The weights of federated averaging (McMahan et al. 2017), applied to predictions.

    Args:
        max_share: Largest share of one teacher in the sum of weights, in (0, 1]; with fewer than three teachers nothing
            is bounded.

    Raises:
        ValueError: If the share is outside (0, 1].
    """

    needs: ClassVar[tuple[Knowledge, ...]] = ("samples",)

    def __init__(self, max_share: float = MAX_SHARE) -> None:
        check_max_share(max_share)
        self.max_share = max_share

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        """Sample-weighted mean over teachers of ``soften(logits)``.

        Args:
            teachers: Outputs of K teachers on N public samples, with `samples`.
            temperature: Divisor of the logits; finite and above 0.

        Returns:
            Shape ``(N, C)``, in float32 or float64.

        Raises:
            ValueError: If `samples` is missing.
        """
        predictions = soften(teachers.logits, temperature, teachers.kind)
        return mix(predictions, bounded_weights(require(teachers, "samples", self), self.max_share))
