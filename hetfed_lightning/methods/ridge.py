"""Ridge regression from sums over examples: what participants add up is solved as if their examples were pooled."""

from __future__ import annotations

import torch
from torch import Tensor

from hetfed_lightning.methods.messages import Message

GRAM, CROSS = "gram", "cross"
"""Keys of sums over examples: of features times features, shape ``(D, D)``; times targets, shape ``(D, C)``."""


def sums_of(features: Tensor, targets: Tensor, *, bias: bool) -> dict[str, Tensor]:
    """Gram matrix and cross products, in float64; with a bias D counts a last feature of ones.

    Args:
        features: Features, shape ``(N, D)``.
        targets: Targets, shape ``(N, C)``.
        bias: True to append the feature of ones.
    """
    inputs = features.double()
    if bias:
        inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
    return {GRAM: inputs.T @ inputs, CROSS: inputs.T @ targets.double()}


def solved(sums: Message, ridge: float, *, bias: bool) -> Tensor:
    """Weights that minimise the squared error plus ``ridge`` times their squared norm, shape ``(D, C)``.

    The bias, in the last row if there is one, bears no penalty. Without a penalty, of several minimisers that of least
    norm.

    Args:
        sums: Gram matrix and cross products.
        ridge: Weight of the penalty, at least 0.
        bias: True if the last feature is of ones.
    """
    penalty = torch.full_like(sums[GRAM][0], ridge)
    if bias:
        penalty[-1] = 0
    weights: Tensor = torch.linalg.pinv(sums[GRAM] + torch.diag(penalty), hermitian=True) @ sums[CROSS]
    return weights
