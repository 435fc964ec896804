"""Meaning of a participant's inputs and outputs: columns and classes by name, and what stands in for a missing value.

A schema is learned with the data, on the participant's own training rows, and belongs to the model from then on: it is
saved in checkpoints and exports, and data that is read for a trained participant is brought into its order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

__all__ = ["DataSchema"]


@dataclass(frozen=True)
class DataSchema:
    """Columns, classes and fillings of one participant.

    Attributes:
        columns: Names of the input columns, in order; empty where inputs are no table.
        classes: Names of the classes by label, in order; empty where labels are numbers without a vocabulary, and in a
            regression.
        fillings: For each column, what stands in for a missing value: the mean of the participant's training rows.
            Empty where nothing is filled in.
    """

    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    fillings: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.fillings and len(self.fillings) != len(self.columns):
            raise ValueError(
                f"expected a filling for each of {len(self.columns)} columns, or none, got {len(self.fillings)}"
            )

    def filled(self, inputs: Any) -> Any:
        """Inputs in which each NaN is its column's filling; whatever is no table of these columns is left alone.

        Args:
            inputs: Shape ``(B, columns)``, in the unit of the data.

        Raises:
            ValueError: If the number of columns is another one and a value is missing.
        """
        if not self.fillings or not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            return inputs
        gaps = torch.isnan(inputs)
        if not bool(gaps.any()):
            return inputs
        if inputs.ndim != 2 or inputs.shape[1] != len(self.columns):
            raise ValueError(
                f"expected rows of {len(self.columns)} columns ({', '.join(self.columns)}), got values of shape "
                f"{tuple(inputs.shape)}"
            )
        return torch.where(gaps, torch.tensor(self.fillings, dtype=inputs.dtype, device=inputs.device), inputs)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists by name, for checkpoints and files."""
        return {key: list(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, found: Any) -> Self:
        """The schema that :meth:`to_dict` wrote.

        Raises:
            ValueError: If something is missing or of another kind, by name.
        """
        if not isinstance(found, Mapping):
            raise ValueError(f"schema: expected entries by name, got {type(found).__name__}")  # noqa: TRY004 - of a file
        names = {key: _names(key, found.get(key)) for key in ("columns", "classes")}
        fillings = found.get("fillings")
        if not isinstance(fillings, list) or not all(type(one) in {float, int} for one in fillings):
            raise ValueError(f"schema: expected a list of numbers under 'fillings', got {fillings!r:.80}")
        if not all(map(math.isfinite, fillings)):
            raise ValueError("schema: expected finite numbers under 'fillings'")
        return cls(names["columns"], names["classes"], tuple(map(float, fillings)))


def _names(key: str, found: Any) -> tuple[str, ...]:
    if not isinstance(found, Sequence) or isinstance(found, str) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"schema: expected a list of names under {key!r}, got {found!r:.80}")
    return tuple(found)
