"""Values brought to mean 0 and standard deviation 1, as measured on a participant's own training data."""

from __future__ import annotations

import torch
from torch import Tensor

from hetfed_lightning.layers.transforms import InvertibleTransform


class Standardise(InvertibleTransform):
    """``(x - mean) / std`` by column; fitted once, before training, on the participant's own training data.

    As ``Participant(transform=...)`` it scales inputs, as ``target_transform`` the targets of a regression, whose
    predictions and metrics come back in the unit of the data. Until it is fitted it changes nothing. What it learned
    lies in buffers: it is saved with the participant and shared with nobody.

    Args:
        columns: Columns of the values, D; None for values of shape ``(N,)``, such as targets.
        fill_missing: Whether NaN, a missing value, becomes 0, the mean.
    """

    mean: Tensor
    std: Tensor
    fitted: Tensor

    def __init__(self, columns: int | None = None, *, fill_missing: bool = False) -> None:
        super().__init__()
        if columns is not None and columns < 1:
            raise ValueError(f"columns: expected at least 1, got {columns}.")
        shape = () if columns is None else (columns,)
        self.fill_missing = fill_missing
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.register_buffer("fitted", torch.tensor(False))

    def fit(self, values: Tensor) -> None:
        """Measure mean and standard deviation (of the population) of each column, missing values left out.

        A column that never changes, or has no value at all, is left at its size.

        Args:
            values: Shape ``(N, D)``, or ``(N,)``.

        Raises:
            ValueError: If the number of columns is another one.
        """
        if values.shape[1:] != self.mean.shape:
            raise ValueError(f"expected values of shape (N, {_words(self.mean)}), got {tuple(values.shape)}.")
        exact = values.to(torch.float64)
        known = ~torch.isnan(exact)
        count = known.sum(0).clamp(min=1)
        mean = exact.nan_to_num(nan=0.0).sum(0) / count
        std = (torch.where(known, exact - mean, 0.0).square().sum(0) / count).sqrt()
        steady = std <= 1e-12 * mean.abs().clamp(min=1e-30)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(steady, torch.ones_like(std), std))
        self.fitted.fill_(True)

    @property
    def is_fitted(self) -> bool:
        """Whether :meth:`fit` has been called, here or before the checkpoint that it came from."""
        return bool(self.fitted)

    def forward(self, values: Tensor) -> Tensor:
        """Standardised values, of the same shape."""
        values = values if values.is_floating_point() else values.to(self.mean.dtype)
        scaled = (values - self.mean.to(values.dtype)) / self.std.to(values.dtype)
        return torch.nan_to_num(scaled, nan=0.0) if self.fill_missing else scaled

    def inverse(self, values: Tensor) -> Tensor:
        """Standardised values as they were before."""
        return values * self.std.to(values.dtype) + self.mean.to(values.dtype)


def _words(tensor: Tensor) -> str:
    return ", ".join(map(str, tensor.shape))
