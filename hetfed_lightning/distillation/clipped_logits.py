"""Mean of the teachers' logits, each clipped to the median length of all teachers' logits.

In the plain mean of logits a teacher whose logits are a thousand times larger is the ensemble. Here it counts as one of
K, however large. It does not stand several teachers that agree on a wrong answer: see `GeometricMedianProbabilities`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hetfed_lightning.distillation.ensemble import Ensemble
from hetfed_lightning.distillation.outputs import OutputKind, at_least_float32, soften
from hetfed_lightning.distillation.teachers import Teachers


class ClippedLogits(Ensemble):
    """Softened mean of the logits ``z_k * min(1, median_j |z_j| / |z_k|)``, sample by sample.

    Multiclass logits are first moved to a mean of zero over the classes, which does not change their softmax, and
    ``|z|`` is their Euclidean norm; binary and multilabel outputs are clipped one by one. At least half of the teachers
    keep their outputs as they are. Up to one half of zeros, or of numbers without bound, moves the limit no further
    than to another teacher's length.

    Ours; norm clipping is known of updates (Sun, Kairouz, Suresh, McMahan (2019), Can you really backdoor federated
    learning?, section 4).
    """

    kinds: ClassVar[tuple[OutputKind, ...]] = ("multiclass", "binary", "multilabel")

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        """Target ``soften(mean)`` of the mean over teachers of the clipped logits.

        Args:
            teachers: Outputs of K teachers on N public samples; not regression.
            temperature: Divisor of the mean logits; finite and above 0.

        Returns:
            Shape ``(N, C)``, in float32 or float64.

        Raises:
            ValueError: If the outputs are values of a regression, whose size is no confidence.
        """
        if teachers.kind == "regression":
            raise ValueError(
                "ClippedLogits expects logits, got regression: use MedianProbabilities or TrimmedProbabilities"
            )
        logits = at_least_float32(teachers.logits)
        smallest = torch.finfo(logits.dtype).tiny
        # In units of the largest, since squares and sums of numbers of 1e38 are infinite.
        competing = teachers.kind == "multiclass"
        largest = (logits.abs().amax(dim=-1, keepdim=True) if competing else logits.abs()).clamp(min=smallest)
        parts = logits / largest
        if competing:
            parts = parts - parts.mean(dim=-1, keepdim=True)
        length = (torch.linalg.vector_norm(parts, dim=-1, keepdim=True) if competing else parts.abs()).clamp(
            min=smallest
        )
        cut = parts * torch.minimum(largest, _median(length * largest) / length)
        return soften(cut.mean(dim=0), temperature, teachers.kind)


def _median(sizes: Tensor) -> Tensor:
    ascending, count = sizes.sort(dim=0).values, len(sizes)
    return (ascending[(count - 1) // 2] + ascending[count // 2]) / 2
