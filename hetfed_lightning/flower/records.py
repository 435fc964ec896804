"""Tensors as the engine's arrays and back, every bit and every dtype kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from hetfed_lightning.flower.description import dtype_of

COUNTERS = ".counters"
"""Ends the name of the record that holds integers and booleans: whoever averages a record of arrays averages numbers
with a fraction alone."""

CASTS = "casts"
"""Name of the record that tells which arrays travel in another dtype than they have, and in which they are."""

_CARRIER = torch.float32
"""What a dtype that NumPy does not know travels as; all such dtypes of torch have fewer bits."""

Records = dict[str, ArrayRecord | MetricRecord | ConfigRecord]


class RecordsError(ValueError):
    """Records that are not what they were to be; the message names the record and the key."""


def pack(records: Records, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors among the records of a message.

    Args:
        records: Receives them, under ``name`` those with a fraction and under ``name.counters`` integers and booleans.
        name: Of the record.
        tensors: By key, on any device.
    """
    apart: dict[str, dict[str, Array]] = {name: {}, name + COUNTERS: {}}
    casts = {}
    for key, tensor in tensors.items():
        whole = tensor.detach().cpu().contiguous()
        if not _numpy_knows(whole.dtype):
            casts[f"{name}/{key}"] = str(whole.dtype).removeprefix("torch.")
            whole = whole.to(_CARRIER)
        counted = not (tensor.is_floating_point() or tensor.is_complex())
        apart[name + COUNTERS * counted][key] = Array(whole.numpy())
    records |= {record: ArrayRecord(arrays) for record, arrays in apart.items() if arrays}
    if casts:
        known = records.setdefault(CASTS, ConfigRecord())
        known.update(casts)  # type: ignore[arg-type]


def unpack(content: RecordDict, name: str) -> dict[str, Tensor]:
    """Take tensors out of a message; empty where it has none of that name.

    Raises:
        RecordsError: If an array cannot be read.
    """
    casts = content.config_records.get(CASTS, ConfigRecord())
    found: dict[str, Tensor] = {}
    for record in (name, name + COUNTERS):
        for key, array in (content.array_records.get(record) or {}).items():
            try:
                whole = torch.from_numpy(np.array(array.numpy()))
                cast = casts.get(f"{name}/{key}")
                found[key] = whole if cast is None else whole.to(dtype_of(str(cast)))
            except (ValueError, TypeError, EOFError, OSError) as error:
                raise RecordsError(f"{record}: the array {key!r} cannot be read ({error}).") from error
    return found


def _numpy_knows(dtype: torch.dtype) -> bool:
    try:
        torch.empty(0, dtype=dtype).numpy()
    except TypeError:
        return False
    return True
