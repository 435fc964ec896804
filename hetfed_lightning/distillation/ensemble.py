"""The base of ensembles: many teachers in, one target for every public sample out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from hetfed_lightning.distillation.outputs import OutputKind
from hetfed_lightning.distillation.teachers import Teachers

Knowledge: TypeAlias = Literal["samples", "class_counts", "scores"]
"""The fields of `Teachers` that may be missing."""

_REMEDY: dict[Knowledge, str] = {
    "samples": "pass each teacher's number of training samples",
    "class_counts": "pass each teacher's number of training samples per class",
    "scores": "run validation before distilling and pass each teacher's score",
}


class Ensemble(ABC):
    """A way to turn what the teachers said on the public set into one softened target.

    Attributes:
        kinds: The kinds of output it can combine.
        needs: The optional fields of `Teachers` it cannot do without, for whoever gathers them.
    """

    kinds: ClassVar[tuple[OutputKind, ...]] = get_args(OutputKind)
    needs: ClassVar[tuple[Knowledge, ...]] = ()

    @abstractmethod
    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        """Combine the teachers.

        Args:
            teachers: Outputs of K teachers on N public samples.
            temperature: What logits are divided by; finite and above 0.

        Returns:
            Shape ``(N, C)`` in float32, or float64 if the logits are: probabilities softened at the
            temperature (multiclass rows sum to one), or values for regression. What `distillation_loss` takes
            as targets.

        Raises:
            ValueError: If the temperature is not positive, or the teachers lack something the ensemble needs.
        """


def require(teachers: Teachers, field: Knowledge, ensemble: Ensemble) -> Tensor:
    """Return a field of the teachers that may be missing.

    Args:
        teachers: The teachers.
        field: Which field.
        ensemble: Who needs it; for the message.

    Returns:
        The field's tensor in float64 on the device of the logits (float32 on ``mps``, which has no float64).

    Raises:
        ValueError: If the field is None; the message says how to provide it.
    """
    values: Tensor | None = getattr(teachers, field)
    if values is None:
        raise ValueError(
            f"{type(ensemble).__name__} needs the teachers' {field}, got None: "
            f"{_REMEDY[field]}, or use MeanProbabilities, which needs nothing"
        )
    device = teachers.logits.device
    return values.to(device, torch.float32 if device.type == "mps" else torch.float64)


def mix(predictions: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the teachers' predictions.

    Args:
        predictions: Shape ``(K, N, C)``.
        weights: Shape ``(K,)``, or ``(K, C)`` for weights per class; not negative, positive for some teacher.

    Returns:
        Shape ``(N, C)`` in the dtype of the predictions; weights are divided by their sum over teachers
        first.
    """
    shares = (weights / weights.sum(dim=0)).to(predictions.dtype)
    # No einsum: as a matrix product it would lose digits to TF32 or autocast, and rows would not sum to one.
    return (predictions * (shares[:, None] if shares.ndim == 2 else shares[:, None, None])).sum(dim=0)
