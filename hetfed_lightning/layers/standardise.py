"""Values standardised to mean 0 and standard deviation 1 of a participant's own training data."""

from __future__ import annotations

import torch
from torch import Tensor

from hetfed_lightning.layers.transforms import InvertibleTransform


class Standardise(InvertibleTransform):
    """Standardised values ``(x - mean) / std`` by column; fitted once, on the participant's own training data.

    As ``Participant(transform=...)`` it scales inputs, as ``target_transform`` the targets of a regression, whose
    predictions and metrics come back in the unit of the data. Until it is fitted it changes nothing. Mean and deviation
    are buffers: they are saved with the participant and shared with nobody.

    Args:
        columns: Columns of the values, D; None for values of shape ``(N,)``, such as targets.
        fill_missing: True to fill NaN, a missing value, with 0, the mean.

    Raises:
        ValueError: If ``columns`` is below 1.
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
        """Set mean and standard deviation (of the population) of each column, missing values left out.

        A constant column, or one without any value, gets a standard deviation of 1.

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
        """True if :meth:`fit` has been called, here or before the checkpoint was saved."""
        return bool(self.fitted)

    def forward(self, values: Tensor) -> Tensor:
        """Standardised values of the same shape, ``(B, D)`` or ``(B,)``, floating."""
        values = values if values.is_floating_point() else values.to(self.mean.dtype)
        scaled = (values - self.mean.to(values.dtype)) / self.std.to(values.dtype)
        return torch.nan_to_num(scaled, nan=0.0) if self.fill_missing else scaled

    def inverse(self, values: Tensor) -> Tensor:
        """Values in the unit of the data, of the same shape, from standardised ones ``(B, D)`` or ``(B,)``."""
        return values * self.std.to(values.dtype) + self.mean.to(values.dtype)


def _words(tensor: Tensor) -> str:
    return ", ".join(map(str, tensor.shape))
