"""The mean of the participants' updates, each clipped, with noise on their sum: participant-level privacy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hetfed_lightning.aggregation import State, clip_updates
from hetfed_lightning.aggregation.state import accumulation_dtype


@torch.no_grad()
def private_mean(
    states: Sequence[State],
    previous: State,
    *,
    participants: int,
    max_norm: float,
    noise_multiplier: float,
    noise: Callable[[int], Tensor],
    names: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """State ``previous`` plus the noised sum of clipped updates over a fixed number of participants.

    The number is of the participants that were expected, not of those that sent: one that is left out counts as an
    update of zero, so that neither the denominator nor the noise tells which it was. The noise on the sum has the
    standard deviation ``noise_multiplier * max_norm``, and one participant moves the sum by at most ``max_norm``: a
    Gaussian mechanism of that multiplier.

    Args:
        states: States of the participants that sent, of floating-point tensors alone; at most ``participants``, perhaps
            none.
        previous: The state last shared, with the same keys, shapes and dtypes, on the same device.
        participants: Number of participants that were expected, at least 1.
        max_norm: Largest L2 norm of an update.
        noise_multiplier: Standard deviation of the noise on the sum, in units of ``max_norm``.
        noise: Source of noise: takes a count, returns as many standard normal numbers in float64, shape ``(count,)``.
        names: Names of the participants that sent, for messages.

    Returns:
        A state of the keys, shapes, dtypes and device of ``previous``.

    Raises:
        ValueError: If there are more states than expected, a tensor is not floating-point, or an update not finite.

    Reference:
        McMahan, Ramage, Talwar, Zhang (2018), Learning differentially private recurrent language models, Algorithm 1
        with the fixed denominator of its estimator for updates of equal weight.
    """
    if len(states) > participants:
        raise ValueError(f"expected at most {participants} states, got {len(states)}: count everyone who was expected")
    for key, tensor in previous.items():
        if not tensor.is_floating_point():
            raise ValueError(
                f"key {key!r}: expected a floating-point tensor, got {tensor.dtype}: noise cannot hide a counter"
            )
    clipped = clip_updates(states, previous, max_norm, names)
    released = {}
    for key, before in previous.items():
        dtype = accumulation_dtype(before)
        total = noise(before.numel()).to(before.device, dtype).view(before.shape) * (noise_multiplier * max_norm)
        for state in clipped:
            total += state[key].to(dtype) - before.to(dtype)
        released[key] = (before.to(dtype) + total / participants).to(before.dtype)
    return released
