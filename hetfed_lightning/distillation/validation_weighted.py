"""Mean of the teachers' probabilities, weighted by their validation scores.

Only as good as the scores: scores on one common set rank teachers; scores on private sets favour the teacher with the
easiest data.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from hetfed_lightning.distillation.ensemble import Ensemble, Knowledge, mix, require
from hetfed_lightning.distillation.outputs import soften
from hetfed_lightning.distillation.teachers import Teachers


class ValidationWeighted(Ensemble):
    """Mean of the softened probabilities (values for regression), weighted by ``score ** sharpness``.

    Args:
        sharpness: Exponent of the scores, at least 0. At 0 all teachers weigh alike, at 1 by their scores; the larger
            it is, the closer to the best teacher alone.

    Raises:
        ValueError: If the sharpness is negative or not finite.
    """

    needs: ClassVar[tuple[Knowledge, ...]] = ("scores",)

    def __init__(self, sharpness: float = 1.0) -> None:
        if not (math.isfinite(sharpness) and sharpness >= 0):
            raise ValueError(f"expected a finite sharpness of at least 0, got {sharpness}: use 0 for equal weights")
        self.sharpness = sharpness

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        """Score-weighted mean over teachers of ``soften(logits)``.

        Args:
            teachers: Outputs of K teachers on N public samples, with `scores` in [0, 1], larger is better (an accuracy,
                not a loss). All zero gives equal weights.
            temperature: Divisor of the logits; finite and above 0.

        Returns:
            Shape ``(N, C)``, in float32 or float64.

        Raises:
            ValueError: If `scores` is missing (no validation has run yet) or leaves [0, 1].
        """
        predictions = soften(teachers.logits, temperature, teachers.kind)
        scores = require(teachers, "scores", self)
        for name, score in zip(teachers.names, scores.tolist(), strict=True):
            if not 0 <= score <= 1:
                raise ValueError(
                    f"teacher {name!r}: expected a score in [0, 1], larger is better, got {score}: "
                    "pass an accuracy or clip an R2; a loss cannot weigh teachers"
                )
        best = scores.max()
        # Divided by the best score first: 0.5 ** 2000 is zero for all teachers, 1 ** 2000 is not.
        weights = (scores / best) ** self.sharpness if best > 0 else torch.ones_like(scores)
        return mix(predictions, weights)
