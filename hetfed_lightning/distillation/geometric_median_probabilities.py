"""Geometric median of the teachers' probabilities: stands lying teachers below one half, and costs little without them.

The median of probabilities looks at each class by itself; this looks at a teacher's probabilities of all classes
together. It keeps more of teachers that disagree because each has seen other classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hetfed_lightning.distillation.ensemble import Ensemble
from hetfed_lightning.distillation.outputs import soften
from hetfed_lightning.distillation.teachers import Teachers

SMOOTHING = 1e-6
"""Distance below which a teacher's probabilities pull no harder."""

TOLERANCE = 1e-4
"""Largest change of the teachers' shares on a sample at which its iteration ends."""

ITERATIONS = 50
"""Most iterations; the result of the last is then taken, which is closer than any before."""


class GeometricMedianProbabilities(Ensemble):
    """Sample by sample, the point with the smallest sum of distances to the teachers' softened probabilities.

    For regression the point is among the teachers' values. It is found by the smoothed Weiszfeld iteration from the
    median of each class on. A weighted mean of the teachers' probabilities, it sums to one where they do.

    Reference:
        Pillutla, Kakade, Harchaoui (2022). Robust aggregation for federated learning. IEEE Transactions on Signal
        Processing 70, Algorithm 2; there of updates, here of predictions.
    """

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        """Geometric median over teachers of ``soften(logits)``.

        Args:
            teachers: Outputs of K teachers on N public samples.
            temperature: Divisor of the logits; finite and above 0.

        Returns:
            Shape ``(N, C)``, in float32 or float64.
        """
        answers = soften(teachers.logits, temperature, teachers.kind)
        ascending, count = answers.sort(dim=0).values, len(answers)
        shares = _shares(answers, (ascending[(count - 1) // 2] + ascending[count // 2]) / 2)
        settled = torch.zeros_like(shares[0], dtype=torch.bool)
        for _ in range(ITERATIONS):
            found = _shares(answers, (shares * answers).sum(dim=0))
            moved = (found - shares).abs().amax(dim=0)
            # A sample that has settled stays, so that its answer does not depend on the samples beside it.
            shares = torch.where(settled, shares, found)
            settled |= moved <= TOLERANCE
            if bool(settled.all()):
                break
        return (shares * answers).sum(dim=0)


def _shares(answers: Tensor, centre: Tensor) -> Tensor:
    """Each teacher's weight on each sample, shape ``(K, N, 1)``: one over its distance, of a sum of one."""
    distances: Tensor = torch.linalg.vector_norm(answers - centre, dim=-1, keepdim=True)
    pull = distances.clamp(min=SMOOTHING).reciprocal()
    return pull / pull.sum(dim=0)
