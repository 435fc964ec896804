"""Transform of a table that several participants share: own columns, own fillings of gaps, own scales.

For tables whose rows hold every participant's columns, NaN where a value was not recorded. Medians, means and
deviations are those of the participant's own training rows, and stay with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class OwnColumns(nn.Module):
    """Rows of all columns as two inputs: ``common`` for a shared backbone, ``private`` for the participant's own part.

    Gaps are filled with the median of the participant's own training rows. ``common`` has the common columns in units
    that all agree on, so that every participant's backbone reads the same scale. ``private`` has, side by side: the
    common columns standardised by the participant's own mean and deviation, the private ones likewise, and 0 or 1 for
    the absence of some columns, less its share in training. A linear head with weight decay pays ``1 / scale^2`` for a
    column, so a larger scale makes it use that kind of column more readily.

    Args:
        columns: Names of the rows' columns, in order.
        common: Columns of the shared input.
        private: Further columns that the participant records.
        indicators: Columns whose absence is an input of its own.
        units: By column, origin and unit of the common input; columns without one are left as they are.
        common_scale: Factor of the common columns in ``private``; 0 leaves the head nothing of them.
        private_scale: Factor of the private columns and of the indicators in ``private``.

    Raises:
        ValueError: If a column is unknown or stands twice, a unit is not positive, or a scale is negative.
    """

    origin: Tensor
    unit: Tensor
    median: Tensor
    mean: Tensor
    std: Tensor
    absent: Tensor
    fitted: Tensor

    def __init__(
        self,
        columns: Sequence[str],
        common: Sequence[str],
        private: Sequence[str] = (),
        indicators: Sequence[str] = (),
        units: Mapping[str, tuple[float, float]] | None = None,
        common_scale: float = 1.0,
        private_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.common, self.private, self.indicators = tuple(common), tuple(private), tuple(indicators)
        units = units or {}
        for name, chosen in (("common", [*common, *private]), ("indicators", list(indicators)), ("units", list(units))):
            _refuse_unknown(name, chosen, self.columns)
        for name, scale in (("common_scale", common_scale), ("private_scale", private_scale)):
            if not 0 <= scale < float("inf"):
                raise ValueError(f"{name}: expected a finite factor of at least 0, got {scale}.")
        for name, (_, unit) in units.items():
            if not unit > 0:
                raise ValueError(f"units: expected a unit above 0 for {name!r}, got {unit}.")
        self.common_scale, self.private_scale = float(common_scale), float(private_scale)
        agreed = torch.tensor([units.get(name, (0.0, 1.0)) for name in self.common]).reshape(-1, 2)
        self.register_buffer("origin", agreed[:, 0].clone(), persistent=False)
        self.register_buffer("unit", agreed[:, 1].clone(), persistent=False)
        self.register_buffer("median", torch.zeros(len(self.columns)))
        self.register_buffer("mean", torch.zeros(len(self.columns)))
        self.register_buffer("std", torch.ones(len(self.columns)))
        self.register_buffer("absent", torch.zeros(len(self.columns)))
        self.register_buffer("fitted", torch.tensor(False))

    @property
    def widths(self) -> dict[str, int]:
        """Numbers of columns of ``common`` and of ``private``, as a backbone and a head take them."""
        own = len(self.common) + len(self.private) + len(self.indicators)
        return {"common": len(self.common), "private": own}

    @property
    def is_fitted(self) -> bool:
        """True if :meth:`fit` has been called, here or before the checkpoint was saved."""
        return bool(self.fitted)

    def fit(self, values: Tensor) -> None:
        """Measure medians, means and deviations on the participant's own training rows.

        Means and deviations (of the population) are those after the gaps have been filled.

        Args:
            values: Shape ``(N, columns)``, NaN where a value is missing.

        Raises:
            ValueError: If the number of columns is another one, or a column that is read has no value at all.
        """
        self._require_columns(values)
        for name in (*self.common, *self.private):
            if bool(torch.isnan(values[:, self.columns.index(name)]).all()):
                raise ValueError(f"no training row has a value of {name!r}: leave the column out for this participant.")
        exact = values.to(torch.float64)
        gaps = torch.isnan(exact)
        # The mean of both middle values, as other libraries have it: `nanmedian` would take the lower one.
        self.median.copy_(torch.nan_to_num(torch.nanquantile(exact, 0.5, dim=0)))
        filled = torch.where(gaps, self.median.to(torch.float64), exact)
        self.mean.copy_(filled.mean(0))
        std = filled.std(0, correction=0)
        self.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))
        self.absent.copy_(gaps.to(torch.float64).mean(0))
        self.fitted.fill_(True)

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        """Inputs ``common`` and ``private`` of a batch of rows.

        Args:
            values: Shape ``(B, columns)``, NaN where a value is missing.

        Returns:
            ``common``, shape ``(B, D)``, and ``private``, shape ``(B, P)``; see :attr:`widths`.

        Raises:
            ValueError: If the number of columns is another one.
        """
        self._require_columns(values)
        gaps = torch.isnan(values)
        filled = torch.where(gaps, self.median.to(values.dtype), values)
        own = (filled - self.mean) / self.std
        shared = [self.columns.index(name) for name in self.common]
        told = [self.columns.index(name) for name in self.indicators]
        parts = [
            self.common_scale * own[:, shared],
            self.private_scale * own[:, [self.columns.index(name) for name in self.private]],
            self.private_scale * (gaps[:, told].to(values.dtype) - self.absent[told]),
        ]
        return {"common": (filled[:, shared] - self.origin) / self.unit, "private": torch.cat(parts, dim=1)}

    def _require_columns(self, values: Tensor) -> None:
        if values.ndim != 2 or values.shape[1] != len(self.columns):
            raise ValueError(
                f"expected rows of {len(self.columns)} columns, got values of shape {tuple(values.shape)}."
            )


def _refuse_unknown(argument: str, chosen: Sequence[str], columns: Sequence[str]) -> None:
    for name in chosen:
        if name not in columns:
            raise ValueError(f"{argument}: no column {name!r}; there are {', '.join(columns)}.")
        if chosen.count(name) > 1:
            raise ValueError(f"{argument}: column {name!r} is named twice (common and private count together).")
