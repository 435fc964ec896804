"""Predictions as CSV files, one per participant (or one of the student)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def write_predictions(predictions: Any, names: Sequence[str], folder: Path) -> list[Path]:
    """Write what ``Trainer.predict`` returned.

    Args:
        predictions: Batches of one loader, or a list of such lists, one per loader.
        names: Name of each loader, in order; names of the files.
        folder: Made if it is not there.

    Returns:
        The files: a row per example with its position, the predicted class where there are several, and every
        probability (or value).
    """
    loaders = predictions if predictions and isinstance(predictions[0], list) else [predictions]
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, batches in zip(names, loaders, strict=True):
        values = torch.cat([_columns(batch) for batch in batches])
        path = folder / f"{name}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            several = values.shape[1] > 1
            writer.writerow(["example", *(["class"] if several else []), *(f"p{i}" for i in range(values.shape[1]))])
            for index, row in enumerate(values.tolist()):
                best = [max(range(len(row)), key=row.__getitem__)] if several else []
                writer.writerow([index, *best, *(f"{value:.6g}" for value in row)])
        files.append(path)
    return files


def _columns(batch: Tensor) -> Tensor:
    return batch.unsqueeze(1) if batch.ndim == 1 else batch.flatten(1)
