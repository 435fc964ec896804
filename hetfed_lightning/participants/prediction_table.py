"""Columns of predictions that people and other programs read: truth, prediction and probabilities by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetfed_lightning.distillation.outputs import two_columns

__all__ = ["PREDICTED", "TRUTH", "joined_columns", "prediction_columns", "truth_by_name"]

Column = NDArray[Any]

TRUTH = "truth"
PREDICTED = "predicted"
PROBABILITY = "probability"
OUTPUT = "output"
"""Names of columns; with ``_`` and a name, those of single classes, labels or values."""

_GROUPS = (TRUTH, PREDICTED, PROBABILITY, OUTPUT)


def prediction_columns(
    predictions: Tensor, kind: str, classes: Sequence[str] = (), truth: Column | None = None
) -> dict[str, Column]:
    """Columns of predictions by name, N values each.

    Args:
        predictions: Of a task, shape ``(N, C)``, or ``(N,)``: probabilities, or values.
        kind: Meaning of the outputs (:attr:`~hetfed_lightning.tasks.Task.kind`).
        classes: Names of the classes or labels in order; what has none is called by its number, from 0.
        truth: Truth by name (:func:`truth_by_name`), shape ``(N,)``, of several values an example ``(N, C)``; None
            where it is unknown.

    Returns:
        By the kind of the outputs, with ``truth`` or ``truth_*`` first where it is known:

        - multiclass, binary: ``predicted``, the class that the metrics take, and ``probability_*`` of each class;
        - multilabel: ``predicted_*``, 1 above one half, and ``probability_*``, of each label;
        - regression: ``predicted``, of several values ``predicted_0``, ``predicted_1``, ...;
        - a kind of a task's own: ``output_0``, ``output_1``, ...
    """
    outputs = two_columns(predictions.detach().cpu()).flatten(1)
    one_of_them = kind == "multiclass" or (kind == "binary" and outputs.shape[1] == 1)
    if one_of_them and kind == "binary":
        outputs = torch.cat([1 - outputs, outputs], dim=1)
    values = outputs.numpy()
    names = _names(classes, values.shape[1])
    columns = _truth_columns(truth, names)
    if kind == "regression":
        return columns | _numbered(PREDICTED, values, alone=True)
    if one_of_them:  # The first of the largest, so no at one half, as the metrics decide.
        columns[PREDICTED] = np.array([names[place] for place in values.argmax(axis=1).tolist()], dtype=object)
    elif kind in {"binary", "multilabel"}:
        columns |= {f"{PREDICTED}_{name}": (values[:, i] > 0.5).astype(np.int64) for i, name in enumerate(names)}
    else:
        return columns | _numbered(OUTPUT, values, alone=False)
    return columns | {f"{PROBABILITY}_{name}": values[:, i] for i, name in enumerate(names)}


def truth_by_name(targets: Tensor, kind: str, classes: Sequence[str] = ()) -> Column:
    """Targets as :func:`prediction_columns` takes them: names of classes where there are some, else numbers.

    Args:
        targets: Raw targets, shape ``(N, ...)``.
        kind: Meaning of the outputs.
        classes: Names of the classes in order.
    """
    values = targets.detach().cpu()
    values = values.flatten(1) if values.ndim > 1 else values
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if kind not in {"multiclass", "binary"} or values.ndim > 1:
        return np.asarray(values.numpy())
    labels = values.long().tolist()
    return np.array([classes[one] if 0 <= one < len(classes) else one for one in labels], dtype=object)


def joined_columns(parts: Sequence[Mapping[str, Column]]) -> dict[str, Column]:
    """Columns of several tables below each other; None where a table has no such column.

    Args:
        parts: Tables, each with columns of one length, at least one column.

    Returns:
        All columns: those of rows first, then truths, predictions and probabilities, each in the order of the first
        table that has them.
    """
    names = list(dict.fromkeys(name for part in parts for name in part))
    lengths = [len(next(iter(part.values()))) for part in parts]

    def whole(name: str) -> Column:
        pieces = [
            part[name] if name in part else np.full(length, None, dtype=object)
            for part, length in zip(parts, lengths, strict=True)
        ]
        alike = len({piece.dtype for piece in pieces}) == 1
        return np.concatenate(pieces if alike else [piece.astype(object) for piece in pieces])

    return {name: whole(name) for name in sorted(names, key=_group)}


def _group(name: str) -> int:
    places = (place for place, group in enumerate(_GROUPS, 1) if name == group or name.startswith(f"{group}_"))
    return next(places, 0)


def _names(classes: Sequence[str], width: int) -> list[Any]:
    return [classes[place] if place < len(classes) else place for place in range(width)]


def _truth_columns(truth: Column | None, names: Sequence[Any]) -> dict[str, Column]:
    if truth is None:
        return {}
    if truth.ndim == 1:
        return {TRUTH: truth}
    width = truth.shape[1]
    called = names if width == len(names) else range(width)
    return {f"{TRUTH}_{name}": truth[:, place] for place, name in enumerate(called)}


def _numbered(prefix: str, values: Column, *, alone: bool) -> dict[str, Column]:
    if alone and values.shape[1] == 1:
        return {prefix: values[:, 0]}
    return {f"{prefix}_{place}": values[:, place] for place in range(values.shape[1])}
