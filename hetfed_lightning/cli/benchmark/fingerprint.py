"""Fingerprint of a cell: equal if and only if version, configuration, kind of training, data and seed are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hetfed_lightning.data.examples import Examples
from hetfed_lightning.data.module import FederatedData
from hetfed_lightning.version import __version__

MOST = 1000
"""Most examples read of a data set that is not in memory."""


def fingerprint(config: Mapping[str, Any], arm: str, seed: int, data: str) -> str:
    """Hexadecimal fingerprint of a cell, 64 digits.

    Args:
        config: Its configuration.
        arm: Kind of training.
        seed: Its seed.
        data: Hash of its data, as :func:`data_hash` returns it.
    """
    content = {"version": __version__, "config": config, "arm": arm, "seed": seed, "data": data}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def data_hash(data: FederatedData) -> str:
    """Hexadecimal hash of all data sets of a federation: whose they are, shapes, dtypes and values.

    Of a set that is read sample by sample at most a thousand samples count, evenly spread, beside its length.

    Args:
        data: Data of all participants, loaded and divided.
    """
    found = hashlib.sha256()
    for kind in ("train", "val", "test"):
        for name, dataset in sorted(getattr(data, kind).items()):
            _add(found, f"{kind}/{name}", dataset)
    for kind in ("public", "global_val", "global_test"):
        if getattr(data, kind) is not None:
            _add(found, kind, getattr(data, kind))
    return found.hexdigest()


def _add(found: Any, title: str, dataset: Dataset[Any]) -> None:
    found.update(title.encode())
    if isinstance(dataset, Examples):
        parts: Iterator[Any] = iter([dataset.inputs, dataset.targets])
    else:
        count = len(dataset)  # type: ignore[arg-type]
        found.update(str(count).encode())
        parts = (dataset[index] for index in range(0, count, max(1, count // MOST)))
    for one in parts:
        for key, value in _values(one):
            found.update(key.encode())
            if isinstance(value, Tensor):
                found.update(f"{tuple(value.shape)}{value.dtype}".encode())
                found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            else:
                found.update(repr(value).encode())


def _values(item: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(item, Mapping):
        for key in sorted(item):
            yield from ((f"{key}/{inner}", value) for inner, value in _values(item[key]))
    elif isinstance(item, tuple | list):
        for index, part in enumerate(item):
            yield from ((f"{index}/{inner}", value) for inner, value in _values(part))
    else:
        yield "", item
