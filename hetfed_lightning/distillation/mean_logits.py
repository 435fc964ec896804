"""Mean of the teachers' logits, softened: good for teachers with similar data, poor for teachers with different data.

A teacher whose logits are ten times larger counts ten times as much; with skewed labels the plain mean of logits
reached half the accuracy that probabilities reached. Kept because papers use it.
"""

from __future__ import annotations

from torch import Tensor

from hetfed_lightning.distillation.ensemble import Ensemble
from hetfed_lightning.distillation.outputs import at_least_float32, soften
from hetfed_lightning.distillation.teachers import Teachers


class MeanLogits(Ensemble):
    """Softened mean of the teachers' logits; mean of their values for regression.

    For probabilities this is their normalised geometric mean: one teacher that excludes a class excludes it
    for all.

    Reference:
        Lin, Kong, Stich, Jaggi (2020). Ensemble distillation for robust model fusion in federated learning
        (FedDF). NeurIPS, Algorithm 1.
    """

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        """Target ``soften(mean)`` of the mean over teachers of the logits.

        Args:
            teachers: Outputs of K teachers on N public samples.
            temperature: Divisor of the mean logits; finite and above 0.

        Returns:
            Shape ``(N, C)``, in float32 or float64.
        """
        return soften(at_least_float32(teachers.logits).mean(dim=0), temperature, teachers.kind)
