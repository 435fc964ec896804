"""Tolerances within which two ways to compute the same count as equal."""

from __future__ import annotations

import torch

STEP: dict[torch.dtype, float] = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest distance of a step from the sequential engine's, as a fraction of that step's length."""

COARSE = 5e-2
"""The largest such distance in half precision."""

TF32 = 5e-3
"""The largest such distance, and that of outputs, in float32 on a GPU. There torch may round the factors of
convolutions to the 10 bits of TF32 (5e-4 of each), depending on the kernel. Ten times that rounding, and not measured.
"""


def step_tolerance(dtype: torch.dtype, device: torch.device) -> float:
    """Largest distance of a step from the right one, as a fraction of that step's length.

    Args:
        dtype: Dtype of the parameters.
        device: Device of the parameters.
    """
    return TF32 if _may_be_tf32(dtype, device) else STEP.get(dtype, COARSE)


def output_tolerance(dtype: torch.dtype, device: torch.device) -> float:
    """Largest difference of an output from the right one, absolute and relative: half of the dtype's digits.

    Args:
        dtype: Dtype of the outputs.
        device: Device of the outputs.
    """
    return TF32 if _may_be_tf32(dtype, device) else float(torch.finfo(dtype).eps) ** 0.5


def _may_be_tf32(dtype: torch.dtype, device: torch.device) -> bool:
    return dtype == torch.float32 and device.type == "cuda"
