"""Table of all predictions that ``hetfed predict`` made, with what each is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from hetfed_lightning.cli.prediction_input import schema_of
from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.labels import labels_of, read_labels
from hetfed_lightning.data.new_rows import NewRows
from hetfed_lightning.data.source_rows import SourceRows, source_rows
from hetfed_lightning.distillation.outputs import two_columns
from hetfed_lightning.federation.federation import Federation
from hetfed_lightning.participants.prediction_table import joined_columns, prediction_columns, truth_by_name

__all__ = ["in_order_of_the_file", "predictions_of_loaders"]

Columns = dict[str, NDArray[Any]]


def predictions_of_loaders(
    federation: Federation, loaders: Mapping[str, Any], predictions: Any, predictor: str | None, rows: NewRows | None
) -> Columns:
    """Columns of all predictions: place in the source, participant, truth, prediction and probabilities.

    Args:
        federation: The federation.
        loaders: Loaders by owner of the data, as ``Trainer.predict`` went through them.
        predictions: What it returned.
        predictor: Who predicted everything; None for the owner of the data.
        rows: Rows of a new file; None for test sets.

    Returns:
        Columns of equal length, examples in the order of the loaders. ``participant`` owns the data; ``predictor`` is
        there where another one predicted.
    """
    by_loader = predictions if predictions and isinstance(predictions[0], list) else [predictions]
    parts = []
    for (owner, loader), batches in zip(loaders.items(), by_loader, strict=True):
        who = predictor or owner
        kind, classes = federation[who].task.kind, schema_of(federation, who).classes
        values = torch.cat([two_columns(batch).flatten(1) for batch in batches])
        dataset = getattr(getattr(loader, "inside", loader), "dataset", None)
        places = SourceRows.counted(len(values)) if dataset is None else source_rows(dataset)
        if rows is not None:
            truth = rows.truth_of(owner, values=kind == "regression")
        else:
            truth = _truth(dataset, kind, classes)
        parts.append(
            {
                places.column: places.values[: len(values)],  # Fewer with limit_predict_batches.
                "participant": np.full(len(values), owner, dtype=object),
                **({} if who == owner else {"predictor": np.full(len(values), who, dtype=object)}),
                **prediction_columns(values, kind, classes, None if truth is None else truth[: len(values)]),
            }
        )
    return joined_columns(parts)


def in_order_of_the_file(columns: Columns, ids: NDArray[Any] | None) -> Columns:
    """Columns with examples in the order of their rows, and the names of the rows first.

    Args:
        columns: Columns with ``row``, counted from 1.
        ids: Names of all rows of the file, or None.
    """
    order = np.argsort(columns["row"], kind="stable")
    ordered = {name: column[order] for name, column in columns.items()}
    return ordered if ids is None else {"id": ids[ordered["row"] - 1], **ordered}


def _truth(dataset: Dataset[Any] | None, kind: str, classes: Sequence[str]) -> NDArray[Any] | None:
    """Truth of a data set by name; None where its samples have no target that is a number."""
    if dataset is None:
        return None
    targets = labels_of(dataset)
    try:
        targets = read_labels(dataset) if targets is None else targets
    except DataError:
        return None
    return truth_by_name(targets, kind, classes)
