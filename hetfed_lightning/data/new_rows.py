"""Rows of a file that participants trained before are to predict: no training set, no split, targets only as truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hetfed_lightning.data.examples import Examples
from hetfed_lightning.data.module import FederatedData, FederatedDataModule
from hetfed_lightning.data.schema import DataSchema
from hetfed_lightning.data.source_rows import SourceRows

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["NewRows"]


class NewRows(FederatedDataModule):
    """Rows of a table, each for the participant that is to predict it.

    Args:
        frame: All rows, N of them.
        dealt: Positions of the rows of each participant, by name, ascending.
        origin: File of the rows, for messages.
        schema_of: Schema of a participant by name, asked for when its weights are loaded.
        eval_batch_size: Examples per batch.
    """

    def __init__(
        self,
        frame: DataFrame,
        dealt: Mapping[str, NDArray[np.int64]],
        origin: str,
        schema_of: Callable[[str], DataSchema],
        eval_batch_size: int = 512,
    ) -> None:
        super().__init__(eval_batch_size=eval_batch_size)
        self.frame = frame
        self.dealt = {name: positions for name, positions in dealt.items() if len(positions)}
        self.origin = origin
        self.schema_of = schema_of

    def load(self, participants: tuple[str, ...]) -> FederatedData:
        """No data set: there is nothing to train on.

        Args:
            participants: Ignored.
        """
        del participants
        return FederatedData({})

    def predict_dataloader(self) -> dict[str, Any]:
        """Loaders of each participant's rows, by name, as it takes them; asked for when a checkpoint is loaded.

        Raises:
            DataError: If the rows have not what a participant was trained on, naming file, participant and column.
        """
        datasets = {}
        for name, positions in self.dealt.items():
            inputs = self.schema_of(name).inputs_of(self.frame, f"{self.origin}, participant {name!r}", positions)
            datasets[name] = Examples(inputs, missing=True, rows=SourceRows("row", positions + 1))
        return self._loaders(datasets, None, divided=False)

    def truth_of(self, name: str, *, values: bool) -> NDArray[Any] | None:
        """Truth of a participant's rows by name, shape ``(n,)``; None where the file has none.

        Args:
            name: The participant.
            values: True for a regression.

        Raises:
            DataError: If a regression's truth is text.
        """
        rows = self.frame.iloc[self.dealt[name]]
        return self.schema_of(name).truth_of(rows, f"{self.origin}, participant {name!r}", values=values)
