"""Gaussian noise that cannot be drawn again: straight from the operating system's source of entropy.

Noise of a generator that is seeded by a configuration can be subtracted by every reader of the configuration, and a
seed of 64 bits can be searched. Noise for privacy is never seeded; `seeded_noise` is for rehearsals.
"""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor

_BLOCK = 1 << 18
"""Numbers made at once: their bytes and intermediate values take some 10 MB."""

_BITS = 53
"""Bits of a float64's mantissa."""


def private_noise(count: int) -> Tensor:
    """Standard normal numbers that cannot be predicted or repeated, shape ``(count,)``.

    Each is the sum of four draws divided by two. In floating point a single draw takes only some of the values near its
    own, and these betray the number that it was added to; a sum of four takes too many to search.

    Args:
        count: Number of values, at least 0.

    Returns:
        Shape ``(count,)``, float64, on the CPU.

    Reference:
        Box and Muller (1958); Mironov (2012), On significance of the least significant bits for differential privacy;
        Holohan and Braghin (2021), Secure random sampling in differential privacy, section 5.1 (with n = 2).
    """
    blocks = [_of_entropy(min(_BLOCK, count - start)) for start in range(0, count, _BLOCK)]
    return torch.cat(blocks) if blocks else torch.empty(0, dtype=torch.float64)


def seeded_noise(count: int, seed: int) -> Tensor:
    """Standard normal numbers that anyone who knows the seed can draw: of no use for privacy.

    Args:
        count: Number of values, at least 0.
        seed: Seed of the generator.

    Returns:
        Shape ``(count,)``, float64, on the CPU.
    """
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _of_entropy(count: int) -> Tensor:
    draws = torch.stack([_normal(count) for _ in range(4)])
    return draws.sum(dim=0) / 2


def _normal(count: int) -> Tensor:
    pairs = (count + 1) // 2
    radius = (-2 * torch.log(_uniform(pairs))).sqrt()  # Of (0, 1]: the logarithm is finite.
    angle = 2 * math.pi * _uniform(pairs)
    return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count]


def _uniform(count: int) -> Tensor:
    """Multiples of 2**-53 in (0, 1]."""
    whole = torch.frombuffer(bytearray(os.urandom(8 * count)), dtype=torch.int64) if count else torch.empty(0).long()
    return ((whole & ((1 << _BITS) - 1)) + 1).double() * 2.0**-_BITS


def random_positions(total: int, probability: float) -> Tensor:
    """Poisson sample of positions: each of ``total`` on its own with a probability, by the system's entropy.

    Args:
        total: Number of positions.
        probability: In [0, 1].

    Returns:
        Positions in ascending order, shape ``(n,)`` with n in 0 to ``total``, int64.
    """
    return (_uniform(total) <= probability).nonzero().flatten()
