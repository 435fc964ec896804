"""Predictions as CSV files, one per participant (or one of the student)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hetfed_lightning.distillation.outputs import two_columns

__all__ = ["Predicted", "write_predictions"]


@dataclass(frozen=True)
class Predicted:
    """Meaning of the predictions of one loader.

    Attributes:
        name: Name of the file, without its ending.
        kind: Meaning of the predicting network's outputs (:attr:`Task.kind`); a task's own kind too.
        classes: Names of the classes by label, if known.
    """

    name: str
    kind: str
    classes: tuple[str, ...] = ()

    def header(self, width: int) -> list[str]:
        """Names of the columns for predictions of ``width`` values."""
        label = ["label"] if self._decides(width) and self.classes else []
        if self.kind == "multiclass" and width > 1:
            return ["class", *label, *_numbered("p", width)]
        if self.kind in {"multiclass", "binary", "multilabel"}:
            return [*label, *_numbered("p", width)]
        if self.kind == "regression":
            return ["value"] if width == 1 else _numbered("value_", width)
        return _numbered("output_", width)

    def row(self, values: Sequence[float]) -> list[str]:
        """Cells of one example, in the columns of :meth:`header`."""
        cells = [f"{value:.6g}" for value in values]
        if not self._decides(len(values)):
            return cells
        # Decided as by the metrics: the first of the largest, and yes above one half.
        several = self.kind == "multiclass"
        chosen = max(range(len(values)), key=values.__getitem__) if several else int(values[0] > 0.5)
        label = [self.classes[chosen] if chosen < len(self.classes) else ""] if self.classes else []
        return [*([str(chosen)] if several else []), *label, *cells]

    def _decides(self, width: int) -> bool:
        """True if one class is chosen for each example."""
        return width > 1 if self.kind == "multiclass" else self.kind == "binary" and width == 1


def write_predictions(predictions: Any, predicted: Sequence[Predicted], folder: Path) -> list[Path]:
    """Files of the predictions that ``Trainer.predict`` returned.

    Args:
        predictions: Batches of one loader, shape ``(B,)`` or ``(B, C)`` each, or a list of such lists, one per loader.
        predicted: Meaning of the predictions of each loader, in order.
        folder: Folder to write; made if missing.

    Returns:
        The files: a row per example with its position and, by the kind of the outputs,

        - multiclass: the most probable ``class``, its name as ``label`` if names are known, probabilities ``p0``,
        ``p1``, ...;
        - binary: the ``label`` if names are known, the probability ``p0`` of a yes;
        - multilabel: the probability of each label, ``p0``, ``p1``, ...;
        - regression: ``value``, or ``value_0``, ``value_1``, ...;
        - a kind of a task's own: ``output_0``, ``output_1``, ...
    """
    loaders = predictions if predictions and isinstance(predictions[0], list) else [predictions]
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for one, batches in zip(predicted, loaders, strict=True):
        values = torch.cat([two_columns(batch).flatten(1) for batch in batches])
        path = folder / f"{one.name}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["example", *one.header(values.shape[1])])
            writer.writerows([index, *one.row(row)] for index, row in enumerate(values.tolist()))
        files.append(path)
    return files


def _numbered(prefix: str, width: int) -> list[str]:
    return [f"{prefix}{index}" for index in range(width)]
