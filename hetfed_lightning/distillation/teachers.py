"""Teachers: their outputs on the public set, their sample and class counts and their scores.

Distillation lets nothing else travel: outputs on public data, and counts. No private sample, label or head is in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hetfed_lightning.distillation.outputs import KINDS, check_outputs


@dataclass(frozen=True, eq=False)
class Teachers:
    """Outputs of K teachers on the N samples of the public set, checked on construction.

    Args:
        logits: Shape ``(K, N, C)``, floating, finite; before any softening. C = 1 for binary, C >= 2 for multiclass.
        kind: Kind of the outputs.
        names: The K teachers' names, all different; for messages.
        samples: Shape ``(K,)``: training samples of each teacher; finite, not negative, not all zero.
        class_counts: Finite, not negative. Multiclass ``(K, C)``: training samples per class. Binary ``(K, 2)``:
            negatives, positives. Multilabel ``(K, C)``: positives per label. None for regression.
        scores: Shape ``(K,)``, finite: validation score of each teacher.
        are_messages: True if ``logits`` holds messages of another meaning and width than outputs, which the ensemble
            asked for.

    Raises:
        ValueError: If a tensor does not fit; the message names the field and, where one is to blame, the teacher.
    """

    logits: Tensor
    kind: str
    names: tuple[str, ...]
    samples: Tensor | None = None
    class_counts: Tensor | None = None
    scores: Tensor | None = None
    are_messages: bool = False

    def __post_init__(self) -> None:
        """Check every field against the others."""
        self._check_logits()
        self._check_names()
        self._check_per_teacher("logits", self.logits, tuple(self.logits.shape), negative=True)
        count = len(self.names)
        if self.samples is not None:
            self._check_per_teacher("samples", self.samples, (count,))
            if not bool((self.samples > 0).any()):
                raise ValueError("expected samples of at least one teacher above 0, got zeros: count training samples")
        if self.class_counts is not None:
            self._check_per_teacher("class_counts", self.class_counts, (count, self._classes(self.class_counts)))
        if self.scores is not None:
            self._check_per_teacher("scores", self.scores, (count,), negative=True)

    def _check_logits(self) -> None:
        if self.logits.ndim != 3 or 0 in self.logits.shape:
            raise ValueError(
                "expected logits of shape (K teachers, N samples, C outputs) with none of them 0, "
                f"got {tuple(self.logits.shape)}: stack the teachers' outputs on the public set"
            )
        if not self.logits.is_floating_point():
            raise ValueError(f"expected floating logits, got {self.logits.dtype}: pass outputs, not predicted classes")
        if self.kind in KINDS and not self.are_messages:  # Other shapes are known to their ensemble alone.
            check_outputs(self.logits, self.kind)

    def _check_names(self) -> None:
        if len(self.names) != self.logits.shape[0]:
            raise ValueError(
                f"expected {self.logits.shape[0]} names, one per teacher in logits of shape "
                f"{tuple(self.logits.shape)}, got {len(self.names)}: {list(self.names)}"
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"expected different names for the teachers, got {list(self.names)}: rename one")

    def _check_per_teacher(self, field: str, values: Tensor, shape: tuple[int, ...], *, negative: bool = False) -> None:
        if tuple(values.shape) != shape:
            raise ValueError(
                f"expected {field} of shape {shape} beside {self.kind} logits of shape "
                f"{tuple(self.logits.shape)}, got {tuple(values.shape)}: give one row per teacher"
            )
        if values.is_complex():
            raise ValueError(f"expected {field} that are real numbers, got {values.dtype}: give one number per teacher")
        wrong = ~torch.isfinite(values) if negative else ~torch.isfinite(values) | (values < 0)
        broken = wrong.reshape(len(self.names), -1).any(dim=1).tolist()
        at_fault = [name for name, bad in zip(self.names, broken, strict=True) if bad]
        if at_fault:
            raise ValueError(
                f"expected {field} that are finite{'' if negative else ' and not negative'}, "
                f"got others from {at_fault}: leave these teachers out of the ensemble or correct them"
            )

    def _classes(self, counts: Tensor) -> int:
        if self.kind == "regression":
            raise ValueError("expected no class_counts for regression, which has no classes: pass None")
        if self.are_messages:
            return counts.shape[-1] if counts.ndim == 2 else 1
        return 2 if self.kind == "binary" else self.logits.shape[-1]
