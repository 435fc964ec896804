"""Meaning of a participant's inputs and outputs: columns and classes by name, and what stands in for a missing value.

A schema is learned with the data, on the participant's own training rows, and belongs to the model from then on: it is
saved in checkpoints and exports, and data that is read for a trained participant is brought into its order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.sources.encodings import Encodings
from hetfed_lightning.data.sources.new_encodings import encodings_from, encodings_to
from hetfed_lightning.data.sources.new_rows import read_new_inputs, read_truth

if TYPE_CHECKING:
    from pandas import DataFrame

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
        target: Name of the column to predict; empty where it is unknown.
        encodings: What was made of columns that are no numbers, for new rows.
        keeps_gaps: True if missing values stay NaN for a transform.

    Schemas that differ in the last three alone are equal: the names of the columns say what they hold.
    """

    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    fillings: tuple[float, ...] = ()
    target: str = field(default="", compare=False)
    encodings: Encodings = field(default_factory=Encodings, compare=False)
    keeps_gaps: bool = field(default=False, compare=False)

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

    def inputs_of(self, frame: DataFrame, origin: str, positions: NDArray[np.int64] | None = None) -> Tensor:
        """Inputs of new rows as the participant takes them, shape ``(N, columns)``, float32, gaps filled.

        Args:
            frame: The rows, N of them; columns are found by name, and further ones ignored.
            origin: File or other origin of the rows, for messages.
            positions: Positions of the rows to take, from 0, shape ``(n,)``; None for all N.

        Raises:
            DataError: If inputs are no table, or the rows have not what it takes, naming origin and column.
        """
        if not self.columns:
            raise DataError(
                f"{origin}: the data that it was trained on had no named columns, so rows of a table cannot be its "
                "inputs: predict on tensors, or train on a data source that names its columns, such as TableDataModule"
            )
        gaps = self.keeps_gaps or bool(self.fillings)
        settings: dict[str, Any] = {"gaps": gaps, "positions": positions, "encodings": self.encodings}
        inputs: Tensor = self.filled(read_new_inputs(frame, self.columns, origin, **settings))
        return inputs

    def truth_of(self, frame: DataFrame, origin: str, *, values: bool) -> NDArray[Any] | None:
        """Truth of new rows, shape ``(N,)``: names of classes, or numbers; None in the place of a row without one.

        Args:
            frame: The rows.
            origin: As for :meth:`inputs_of`.
            values: True for a regression.

        Returns:
            None if the rows have no column of that name, or nothing in it.

        Raises:
            DataError: If a regression's column holds text.
        """
        return read_truth(frame, self.target, self.classes, origin, values=values) if self.target else None

    def to_dict(self) -> dict[str, Any]:
        """Plain lists by name, for checkpoints and files; what only new rows need is there where there is some."""
        lists: dict[str, Any] = {
            key: list(value)
            for key, value in (("columns", self.columns), ("classes", self.classes), ("fillings", self.fillings))
        }
        further = {
            "target": self.target,
            "encodings": encodings_to(self.encodings),
            "keeps_gaps": self.keeps_gaps,
        }
        return lists | {key: value for key, value in further.items() if value}

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
        target = found.get("target", "")  # Earlier versions saved none.
        if not isinstance(target, str):
            raise ValueError(f"schema: expected a name under 'target', got {target!r:.80}")  # noqa: TRY004 - of a file
        gaps = found.get("keeps_gaps", False)
        if not isinstance(gaps, bool):
            raise ValueError(f"schema: expected true or false under 'keeps_gaps', got {gaps!r:.80}")  # noqa: TRY004
        encodings = encodings_from(found.get("encodings"))
        return cls(names["columns"], names["classes"], tuple(map(float, fillings)), target, encodings, gaps)


def _names(key: str, found: Any) -> tuple[str, ...]:
    if not isinstance(found, Sequence) or isinstance(found, str) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"schema: expected a list of names under {key!r}, got {found!r:.80}")
    return tuple(found)
