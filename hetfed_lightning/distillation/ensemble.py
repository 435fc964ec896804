"""Ensemble: many teachers' outputs in, one softened target for every public sample out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Protocol, TypeAlias, get_args

import torch
from torch import Tensor

from hetfed_lightning.distillation.outputs import OutputKind
from hetfed_lightning.distillation.teachers import Teachers

Knowledge: TypeAlias = Literal["samples", "class_counts", "scores"]
"""Names of the fields of `Teachers` that may be missing."""

_REMEDY: dict[Knowledge, str] = {
    "samples": "pass each teacher's number of training samples",
    "class_counts": "pass each teacher's number of training samples per class",
    "scores": "run validation before distilling and pass each teacher's score",
}


class PublicAndOwn(Protocol):
    """A teacher's data as :meth:`Ensemble.message` sees them, all of it in evaluation mode."""

    @property
    def features(self) -> Tensor:
        """Features of the teacher's own training set, shape ``(N, D)``."""

    @property
    def features_like_public(self) -> Tensor:
        """Features of its own training set made of the inputs that the public set has, shape ``(N, D)``."""

    @property
    def outputs(self) -> Tensor:
        """Outputs on its own training set, shape ``(N, C)``."""

    @property
    def targets(self) -> Tensor:
        """Targets of its own training set, shape ``(N, ...)``."""

    @property
    def kind(self) -> str:
        """Kind of the teacher's outputs, such as ``"multiclass"``."""


class Ensemble(ABC):
    """Combination of the teachers' outputs on the public set into one softened target.

    A subclass overrides ``__call__`` and, where they differ, ``kinds`` and ``needs``. It must survive pickling and be
    deterministic, since several ranks call it with equal arguments, and it must not depend on the order of the
    teachers.

    Attributes:
        kinds: Kinds of output that it combines; all by default.
        needs: Optional fields of `Teachers` that have to be there, none by default; they are gathered only if named
            here.
        fewest_public: Least number of public examples that it can be asked about.
    """

    kinds: ClassVar[tuple[str, ...]] = get_args(OutputKind)
    needs: ClassVar[tuple[Knowledge, ...]] = ()
    fewest_public: ClassVar[int] = 1

    def message(self, outputs: Tensor, features: Tensor, data: PublicAndOwn) -> Tensor:
        """A teacher's message about the public set, shape ``(P, C)``: its outputs, unless an ensemble asks for another.

        Called where the teacher is, in evaluation mode and without gradients, once a distilling round. Teachers then
        have the messages of all in the place of their outputs (``Teachers.logits``).

        Args:
            outputs: The teacher's outputs on the public set, shape ``(P, C)``.
            features: Output of its backbone there, shape ``(P, D)``.
            data: Its own examples and the public set. Of a teacher with DP-SGD its own examples are refused.
        """
        del features, data
        return outputs

    @property
    def has_own_message(self) -> bool:
        """True if a teacher's message is other than its outputs."""
        return type(self).message is not Ensemble.message

    def message_width(self, width: int, kind: str) -> int:
        """Number of columns of a message, for ``width`` outputs of a kind; that of the outputs by default.

        Args:
            width: Number of outputs C.
            kind: Kind of the outputs.
        """
        del kind
        return width

    def figures(self, teachers: Teachers) -> dict[str, float]:
        """Numbers to log of a round's teachers as ``federation/KEY``; none by default.

        Args:
            teachers: Outputs or messages of K teachers.
        """
        del teachers
        return {}

    @abstractmethod
    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        """Softened target of each public sample; called in each distilling round, with teachers of finite outputs.

        An override combines each sample by itself: row n of the result depends on ``teachers.logits[:, n]`` alone. The
        result shares no memory with the logits.

        Args:
            teachers: Outputs of K teachers on N public samples, K and N at least 1; left as they are.
            temperature: Divisor of the logits; finite and above 0.

        Returns:
            Shape ``(N, C)`` in float32, or float64 if the logits are: probabilities softened at the temperature
            (multiclass rows sum to one), or values for regression. `distillation_loss` takes them as targets.

        Raises:
            ValueError: If the temperature is not positive, or the teachers lack something the ensemble needs.
        """


def require(teachers: Teachers, field: Knowledge, ensemble: Ensemble) -> Tensor:
    """An optional field of the teachers that has to be there.

    Args:
        teachers: The teachers.
        field: Name of the field.
        ensemble: The ensemble that needs it, for the message.

    Returns:
        The field's tensor, shape ``(K,)`` or ``(K, C)``, in float64 on the device of the logits (float32 on ``mps``,
        which has no float64).

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
