"""Predictions of one participant for the rows of a pandas frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.optional import import_optional
from hetfed_lightning.data.schema import DataSchema
from hetfed_lightning.participants.prediction_table import prediction_columns
from hetfed_lightning.tasks import Task

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["predictions_of_frame"]

ROWS = 8192
"""Most rows that go through the network at once."""


class Predictor(Protocol):
    """A participant, as far as predictions of a frame need it."""

    schema: DataSchema | None
    trained_as: str | None
    task: Task

    @property
    def name(self) -> str | None:
        """Name in its federation."""

    def predict(self, inputs: Tensor, scope: Literal["own", "global"] = "own") -> Tensor:
        """Predictions for raw inputs."""


def predictions_of_frame(
    participant: Predictor, frame: DataFrame, scope: Literal["own", "global"] = "own"
) -> DataFrame:
    """Predictions for the rows of a frame: see :meth:`~hetfed_lightning.Participant.predict_table`.

    Args:
        participant: Who predicts.
        frame: New rows.
        scope: ``"own"`` or ``"global"``.

    Raises:
        DataError: As :meth:`~hetfed_lightning.Participant.predict_table`.
        ImportError: If pandas is not installed.
    """
    pandas = import_optional("pandas", "hetfed-lightning[tables]")
    if not isinstance(frame, pandas.DataFrame):
        raise DataError(f"predict_table: expected a pandas DataFrame, got {type(frame).__name__}; see predict")
    name = participant.name or participant.trained_as
    origin = "the frame" if name is None else f"the frame, participant {name!r}"
    schema = participant.schema or DataSchema()
    inputs, kind = schema.inputs_of(frame, origin), participant.task.kind
    predictions = torch.cat([participant.predict(part, scope) for part in inputs.split(ROWS)])
    truth = schema.truth_of(frame, origin, values=kind == "regression")
    columns = {
        "row": np.arange(1, len(frame) + 1),
        "participant": np.full(len(frame), name or "", dtype=object),
        **prediction_columns(predictions, kind, schema.classes, truth),
    }
    table: DataFrame = pandas.DataFrame(columns, index=frame.index)
    return table
