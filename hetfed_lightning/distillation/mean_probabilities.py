"""Mean of the teachers' probabilities: the sound default, in which huge logits of one teacher cannot take over."""

from __future__ import annotations

from torch import Tensor

from hetfed_lightning.distillation.ensemble import Ensemble
from hetfed_lightning.distillation.outputs import soften
from hetfed_lightning.distillation.teachers import Teachers


class MeanProbabilities(Ensemble):
    """Unweighted mean of the teachers' softened probabilities; of their values for regression.

    Every teacher moves the target by at most 1 / K. Where teachers have seen different classes,
    `ClassPriorWeighted` is the better teacher.

    Reference:
        Lakshminarayanan, Pritzel, Blundell (2017). Simple and scalable predictive uncertainty estimation
        using deep ensembles. NeurIPS, section 2.4.
    """

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        """Mean over teachers of ``soften(logits)``.

        Args:
            teachers: Outputs of K teachers on N public samples.
            temperature: Divisor of the logits; finite and above 0.

        Returns:
            Shape ``(N, C)``, in float32 or float64.
        """
        return soften(teachers.logits, temperature, teachers.kind).mean(dim=0)
