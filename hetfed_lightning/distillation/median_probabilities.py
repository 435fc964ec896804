"""Median of the teachers' probabilities: stands lying teachers below one half.

Where teachers have seen different classes it also silences the only teacher of a class: use `ClassPriorWeighted` there,
or `GeometricMedianProbabilities` where they may lie.
"""

from __future__ import annotations

from torch import Tensor

from hetfed_lightning.distillation.ensemble import Ensemble
from hetfed_lightning.distillation.outputs import renormalise, soften
from hetfed_lightning.distillation.teachers import Teachers


class MedianProbabilities(Ensemble):
    """Normalised median of the teachers' softened probabilities; median of their values for regression.

    An even number of teachers gives the mean of the two middle values (`torch.median` takes the lower one,
    which would favour small probabilities). A sample on which the median of every class is zero gets equal
    probabilities: no class has half of the teachers.

    Reference:
        Yin, Chen, Ramchandran, Bartlett (2018). Byzantine-robust distributed learning: towards optimal
        statistical rates. ICML, Definition 1; there of gradients, here of predictions.
    """

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        """Median over teachers of ``soften(logits)``, normalised over the classes.

        Args:
            teachers: Outputs of K teachers on N public samples.
            temperature: Divisor of the logits; finite and above 0.

        Returns:
            Shape ``(N, C)``, in float32 or float64.
        """
        ascending = soften(teachers.logits, temperature, teachers.kind).sort(dim=0).values
        count = ascending.shape[0]
        return renormalise((ascending[(count - 1) // 2] + ascending[count // 2]) / 2, teachers.kind)
