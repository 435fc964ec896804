"""Distillation losses of a student's outputs against a softened target: one loss per kind of output.

Two conventions hold throughout. The divergence is summed over the outputs and averaged over the batch (PyTorch's
``reduction="mean"`` also divides by the number of classes, 10 to 100 times too weak). And it is multiplied by the
squared temperature, since the gradient of a softened prediction shrinks with that square; so changing the temperature
does not change how much distillation weighs against the other losses.

Gradients flow to the student only: the teachers' outputs are constants.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hetfed_lightning.distillation.outputs import (
    check_outputs,
    check_temperature,
    soften,
)


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Knowledge distillation between logits: KL divergence from teacher to student, rescaled.

    Its gradient by the student's logits z, with teacher's logits v, is
    ``temperature * (softmax(z / temperature) - softmax(v / temperature)) / B``.

    Args:
        student_logits: Shape ``(B, C)`` with C >= 2.
        teacher_logits: Shape ``(B, C)``; taken as a constant.
        temperature: Finite and above 0; both sides are divided by it.

    Returns:
        A scalar in float32, or float64 if an input is; at least 0.

    Raises:
        ValueError: If the shapes differ or do not fit, or the temperature is not positive.

    Reference:
        Hinton, Vinyals, Dean (2015). Distilling the knowledge in a neural network, section 2.
    """
    check_temperature(temperature)
    _check_pair(student_logits, teacher_logits, "multiclass")
    return soft_target_loss(student_logits, soften(teacher_logits.detach(), temperature, "multiclass"), temperature)


def soft_target_loss(student_logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> Tensor:
    """Knowledge distillation towards a distribution that is already softened, as an `Ensemble` returns.

    Args:
        student_logits: Shape ``(B, C)`` with C >= 2; only these are divided by the temperature.
        teacher_probabilities: Shape ``(B, C)``, rows that sum to one, softened at the same temperature; zeros are
            allowed. Not softened again; taken as a constant.
        temperature: Finite and above 0.

    Returns:
        A scalar: ``KL(teacher || student)``, mean over the batch, times the squared temperature. In float32, or float64
        if an input is.

    Raises:
        ValueError: If the shapes differ or do not fit, or the temperature is not positive.
    """
    return distillation_losses(student_logits, teacher_probabilities, temperature, "multiclass").mean()


def binary_soft_target_loss(student_logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> Tensor:
    """Knowledge distillation of outputs with a sigmoid: one of them (binary) or several (multilabel).

    Each output is a Bernoulli distribution of its own; cross-entropy minus the teacher's entropy, both in forms that
    stay finite for any logit and for probabilities of exactly 0 and 1.

    Args:
        student_logits: Shape ``(B, C)``, C = 1 for binary; only these are divided by the temperature.
        teacher_probabilities: Shape ``(B, C)`` in [0, 1], softened at the same temperature; taken as a constant.
        temperature: Finite and above 0.

    Returns:
        A scalar: ``KL(teacher || student)`` summed over outputs, mean over the batch, times the squared temperature. In
        float32, or float64 if an input is; at least 0 but for rounding.

    Raises:
        ValueError: If the shapes differ or do not fit, or the temperature is not positive.
    """
    return distillation_losses(student_logits, teacher_probabilities, temperature, "multilabel").mean()


def regression_distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error between a student's and a teacher's values.

    The mean is over every element, outputs included, unlike the sum over outputs of the other losses: it is
    the loss that regression itself is trained with, so the two weigh alike.

    Args:
        student: Values, shape ``(B, C)``.
        teacher: Values, shape ``(B, C)``; taken as a constant.

    Returns:
        A scalar in the squared unit of the values; in float32, or float64 if an input is.

    Raises:
        ValueError: If the shapes differ or do not fit.
    """
    return distillation_losses(student, teacher, 1.0, "regression").mean()


def distillation_loss(student_logits: Tensor, targets: Tensor, temperature: float, kind: str) -> Tensor:
    """Distillation loss for any kind of output, towards a target as an `Ensemble` returns it.

    Args:
        student_logits: Shape ``(B, C)``.
        targets: Shape ``(B, C)``; probabilities softened at the same temperature, or values for regression.
        temperature: Finite and above 0; checked but without effect on regression.
        kind: Kind of the outputs.

    Returns:
        A scalar: `soft_target_loss` (multiclass), `binary_soft_target_loss` (binary, multilabel) or
        `regression_distillation_loss` (regression).

    Raises:
        ValueError: If the shapes differ or do not fit the kind, or the temperature is not positive.
    """
    return distillation_losses(student_logits, targets, temperature, kind).mean()


def distillation_losses(student_logits: Tensor, targets: Tensor, temperature: float, kind: str) -> Tensor:
    """Distillation loss of each example; `distillation_loss` is their mean.

    Args:
        student_logits: Shape ``(B, C)``.
        targets: Shape ``(B, C)``; probabilities softened at the same temperature, or values for regression.
        temperature: Finite and above 0; checked but without effect on regression.
        kind: Kind of the outputs.

    Returns:
        Shape ``(B,)``; in float32, or float64 if an input is.

    Raises:
        ValueError: If the shapes differ or do not fit the kind, or the temperature is not positive.
    """
    check_temperature(temperature)
    student, target = _prepare(student_logits, targets, kind)
    if kind == "regression":
        return (student - target).square().mean(-1)
    if kind == "multiclass":
        log_predictions = functional.log_softmax(student / temperature, dim=-1)
        return functional.kl_div(log_predictions, target, reduction="none").sum(-1) * temperature**2
    cross_entropies = functional.binary_cross_entropy_with_logits(student / temperature, target, reduction="none")
    negative_entropies = torch.xlogy(target, target) + torch.xlogy(1 - target, 1 - target)
    return (cross_entropies + negative_entropies).sum(-1) * temperature**2


def _check_pair(student: Tensor, teacher: Tensor, kind: str) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"expected student and teacher outputs of one shape, got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}: nothing is broadcast; ask both the same samples for the same classes"
        )
    if student.ndim != 2 or student.shape[0] == 0:
        raise ValueError(
            f"expected outputs of shape (B, C) with B >= 1, got {tuple(student.shape)}: "
            "flatten further dimensions into the batch and skip empty batches"
        )
    check_outputs(student, kind)


def _prepare(student: Tensor, teacher: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Check both sides; return them in their common dtype of at least float32, the teacher as a constant."""
    _check_pair(student, teacher, kind)
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    constant = teacher.detach()
    # autograd refuses to keep tensors made under `inference_mode`; a copy made outside it is an ordinary one.
    constant = constant.clone() if constant.is_inference() else constant
    return student.to(dtype), constant.to(dtype)
