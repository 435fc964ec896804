"""Tensors among the records of a message and back, every bit and every dtype kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from hetfed_lightning.flower.protocol.arrays import CAST, ArrayError, Layout, array_of, tensor_of
from hetfed_lightning.flower.protocol.untrusted import is_name, shown

COUNTERS = ".counters"
"""End of the name of the record with integers and booleans. It is apart, so that code that averages a record of arrays
averages floating-point numbers alone."""

CASTS = "casts"
"""Name of the record with the own dtypes of arrays that travel in another dtype."""

Records = dict[str, ArrayRecord | MetricRecord | ConfigRecord]


class RecordsError(ValueError):
    """Records that are not as expected; the message names the record and the key."""


def pack(records: Records, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors among the records of a message.

    Args:
        records: Records to add to: floating-point tensors under ``name``, integers and booleans under
            ``name.counters``.
        name: Name of the record.
        tensors: Tensors of any shape, by key, on any device.

    Raises:
        RecordsError: If a tensor is of a dtype that cannot travel.
    """
    apart: dict[str, dict[str, Array]] = {name: {}, name + COUNTERS: {}}
    casts = {}
    for key, tensor in tensors.items():
        if tensor.dtype in CAST:
            casts[f"{name}/{key}"] = str(tensor.dtype).removeprefix("torch.")
        counted = not (tensor.is_floating_point() or tensor.is_complex())
        try:
            apart[name + COUNTERS * counted][key] = array_of(tensor)
        except ArrayError as error:
            raise RecordsError(f"{name}: {key}: {error}.") from error
    records |= {record: ArrayRecord(arrays) for record, arrays in apart.items() if arrays}
    if casts:
        known = records.setdefault(CASTS, ConfigRecord())
        known.update(casts)  # type: ignore[arg-type]


def unpack(content: RecordDict, name: str, expected: Mapping[str, Layout] | None = None) -> dict[str, Tensor]:
    """Tensors of a record, of the arrays' shapes, by key; empty if the message has no record of that name.

    Layouts are compared before any tensor is made, so that a message takes no more memory than it came with.

    Args:
        content: Message as it arrived.
        name: Name of the record.
        expected: Shape and dtype by key, exactly these; None takes any.

    Raises:
        RecordsError: If an array cannot be read, or is not of the expected layout.
    """
    casts = content.config_records.get(CASTS, ConfigRecord())
    arrays = {
        key: (record, array)
        for record in (name, name + COUNTERS)
        for key, array in (content.array_records.get(record) or {}).items()
    }
    if expected is not None:
        _check_keys(name, arrays.keys(), expected)
    found: dict[str, Tensor] = {}
    for key, (record, array) in arrays.items():
        if not is_name(key):
            raise RecordsError(f"{record}: {shown(key)} is no name of an array.")
        cast = casts.get(f"{name}/{key}")
        if cast is not None and not isinstance(cast, str):
            raise RecordsError(f"{CASTS}: expected the name of a dtype for {key!r}, got {shown(cast)}.")
        try:
            found[key] = tensor_of(array, None if expected is None else expected[key], cast=cast)
        except ArrayError as error:
            raise RecordsError(f"{record}: the array {key!r} cannot be read: it {error}.") from error
    return found


def _check_keys(name: str, keys: Collection[str], expected: Mapping[str, Layout]) -> None:
    if missing := [key for key in expected if key not in keys]:
        more = f" and {len(missing) - 1} more missing" if len(missing) > 1 else ""
        raise RecordsError(f"{name}: there is no {missing[0]}{more}.")
    if surplus := next((key for key in keys if key not in expected), None):
        raise RecordsError(f"{name}: there is {shown(surplus)}, which it did not describe.")
