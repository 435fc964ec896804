"""Matrices at low rank: singular value decompositions that keep a share of the energy, as factors of one form."""

from __future__ import annotations

import torch
from torch import Tensor


def rank_at(values: Tensor, energy: float) -> int:
    """Smallest rank whose singular values hold a share of the energy, the sum of all squares; 0 for a matrix of zeros.

    Args:
        values: Singular values, descending, shape ``(R,)``.
        energy: The share, in (0, 1].
    """
    held = values.double().square().cumsum(0)
    if not len(held) or not held[-1] > 0:
        return 0
    return min(int((held < energy * held[-1]).sum()) + 1, int((values > 0).sum()))


def longest_rank(shape: tuple[int, ...]) -> int:
    """Largest rank whose factors are no longer than the matrix; 0 for a tensor of fewer than two dimensions.

    Args:
        shape: Shape of the tensor, which is a matrix of a row for each entry of its first dimension.
    """
    if len(shape) < 2:
        return 0
    rows, columns = shape[0], int(torch.Size(shape[1:]).numel())
    return min(rows * columns // (rows + columns), rows, columns)


def factors(matrix: Tensor, energy: float, rank: int) -> tuple[Tensor, Tensor]:
    """Factors ``(M, R)`` and ``(R, N)`` whose product is a matrix at low rank, filled up with zeros.

    Args:
        matrix: Shape ``(M, N)``.
        energy: Share of the energy that is kept, in (0, 1], as far as ``rank`` allows it.
        rank: R, at least 1.

    Returns:
        The factors; the first has orthogonal columns whose lengths are singular values.
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = min(rank_at(values, energy), rank)
    first, second = matrix.new_zeros(len(matrix), rank), matrix.new_zeros(rank, matrix.shape[1])
    first[:, :kept], second[:kept] = left[:, :kept] * values[:kept], right[:kept]
    return first, second
