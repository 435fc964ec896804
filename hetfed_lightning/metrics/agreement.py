"""Agreement of teachers with one another: where it is complete, an ensemble teaches no more than one teacher."""

from __future__ import annotations

import torch
from torch import Tensor

from hetfed_lightning.distillation.outputs import check_outputs


def agreement_matrix(logits: Tensor, kind: str) -> Tensor:
    """Agreement of every teacher with every other on the public set, shape ``(K, K)``.

    Args:
        logits: Shape ``(K, N, C)``, finite: outputs of K teachers on N samples.
        kind: Kind of the outputs.

    Returns:
        Shape ``(K, K)``, float64 on the CPU, symmetric, ones on the diagonal. Multiclass: share of samples on which
        both have the same largest logit. Binary and multilabel: share of samples (and labels) on which both logits lie
        on the same side of zero. Regression: Pearson correlation of the values, mean over the outputs; 0 with a teacher
        whose values are constant.

    Raises:
        ValueError: If the shape does not fit, or the outputs of a teacher are not finite.
    """
    if logits.ndim != 3 or 0 in logits.shape:
        raise ValueError(
            "expected logits of shape (K teachers, N samples, C outputs) with none of them 0, "
            f"got {tuple(logits.shape)}: stack the teachers' outputs on the public set"
        )
    check_outputs(logits, kind)
    broken = [k for k, outputs in enumerate(logits) if not bool(torch.isfinite(outputs).all())]
    if broken:
        raise ValueError(f"expected finite logits, got others from the teachers at index {broken}: leave them out")
    outputs = logits.detach().cpu()
    if kind == "regression":
        return _correlation(outputs.double())
    said = outputs.argmax(dim=-1) if kind == "multiclass" else (outputs > 0).flatten(1)
    # A row at a time: all pairs at once would take K * K * N.
    return torch.stack([(said == row).double().mean(dim=1) for row in said])


def mean_agreement(matrix: Tensor) -> float:
    """Mean agreement of two different teachers.

    Args:
        matrix: Shape ``(K, K)``, as `agreement_matrix` returns it.

    Returns:
        The mean off the diagonal; 1.0 for a single teacher.

    Raises:
        ValueError: If the matrix is not square or empty.
    """
    count = matrix.shape[0] if matrix.ndim == 2 else 0
    if count == 0 or matrix.shape[1] != count:
        raise ValueError(f"expected a square matrix (K, K) with K >= 1, got shape {tuple(matrix.shape)}")
    if count == 1:
        return 1.0
    return float((matrix.sum() - matrix.diagonal().sum()) / (count * (count - 1)))


def _correlation(values: Tensor) -> Tensor:
    centred = values - values.mean(dim=1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    # Rounding of the mean leaves constant outputs a tiny norm, which is noise and correlates with nothing.
    noise = 1e-12 * values.norm(dim=1, keepdim=True)
    unit = torch.where(norms > noise, centred / norms, torch.zeros_like(centred))
    matrix = torch.einsum("inc,jnc->ij", unit, unit) / values.shape[-1]
    return matrix.clamp(-1, 1).fill_diagonal_(1.0)
