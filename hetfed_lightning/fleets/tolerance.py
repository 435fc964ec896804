"""How far two ways to compute the same may be apart before one of them counts as wrong."""

from __future__ import annotations

import torch

STEP: dict[torch.dtype, float] = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest distance of a step from the sequential engine's, as a share of that step."""

COARSE = 5e-2
"""The same for half precision."""

TF32 = 5e-3
"""The same, and for outputs, in float32 on a GPU, where torch lets convolutions round factors to the 10 bits of TF32
(5e-4 of each); whether one does depends on the kernel that its shape is given. Ten times that, and not measured."""


def step_tolerance(dtype: torch.dtype, device: torch.device) -> float:
    """Largest distance of a step from the right one, as a share of that step."""
    return TF32 if _may_be_tf32(dtype, device) else STEP.get(dtype, COARSE)


def output_tolerance(dtype: torch.dtype, device: torch.device) -> float:
    """Largest difference of an output from the right one, absolute and as a share: half of the digits."""
    return TF32 if _may_be_tf32(dtype, device) else float(torch.finfo(dtype).eps) ** 0.5


def _may_be_tf32(dtype: torch.dtype, device: torch.device) -> bool:
    return dtype == torch.float32 and device.type == "cuda"
