"""Data on the accelerator, from where a batch is a selection instead of a gather and a copy.

Decided once, as training begins: all data in memory, or none. Data that is read sample by sample stays on the host,
where worker processes can reach it, and so does everything when training on a CPU. The examples and their order are the
same in either place, to the bit. Not measured on a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from hetfed_lightning.data.examples import Examples, Inputs, is_plain

log = logging.getLogger(__name__)

SHARE = 0.25
"""Largest share of the device's free memory for data as training begins.

Optimizers, activations and stacks of fleets are allocated later and need the rest.
"""


def fits(wanted: int, free: int) -> bool:
    """True if data may live on a device.

    Args:
        wanted: Bytes of the data.
        free: Free bytes of the device, 0 if unknown.
    """
    return wanted <= SHARE * free


def free_bytes(device: torch.device) -> int:
    """Free bytes of a device, torch's unused cache included; 0 for devices that do not tell (MPS, meta)."""
    if device.type not in {"cuda", "xpu"}:
        return 0
    memory = torch.get_device_module(device)
    # Unused memory in torch's cache is free as well.
    cached = memory.memory_reserved(device) - memory.memory_allocated(device)
    return int(memory.mem_get_info(device)[0] + cached)


def home_of(datasets: Iterable[Any], device: torch.device) -> torch.device | None:
    """Device of all in-memory data, if it may live there; None for the host.

    Args:
        datasets: Data sets of a run; those that are not plain :class:`Examples` are passed over.
        device: Device of the training.
    """
    distinct = {id(dataset): dataset for dataset in datasets if is_plain(dataset)}  # Participants may share a data set.
    if device.type == "cpu" or not distinct:
        return None
    wanted, free = sum(dataset.num_bytes for dataset in distinct.values()), free_bytes(device)
    there = fits(wanted, free)
    log.info(
        "Data: %.1f MB in memory %s %s, which has %.1f MB free.",
        wanted / 2**20, "lives on" if there else "stays on the host, too much for", device, free / 2**20,
    )  # fmt: skip
    return device if there else None


class Resident(Examples):
    """Examples on a device, selected by positions on the host; made by :meth:`of`."""

    @classmethod
    def of(cls, parts: Sequence[Examples], device: torch.device) -> Self:
        """All examples of several parts, in order, copied to a device.

        Args:
            parts: At least one, all of the same keys, shapes of one example and dtypes.
            device: The device to copy to.
        """
        targets = (
            None if parts[0].targets is None else _joined([p.targets for p in parts if p.targets is not None], device)
        )
        if isinstance(parts[0].inputs, Tensor):
            return cls._trusted(_joined([p.inputs for p in parts if isinstance(p.inputs, Tensor)], device), targets)
        columns = {key: [p.inputs[key] for p in parts if isinstance(p.inputs, dict)] for key in parts[0].inputs}
        return cls._trusted({key: _joined(values, device) for key, values in columns.items()}, targets)

    def batch(self, indices: Tensor) -> tuple[Inputs, Tensor | None]:
        """Many examples at once, on the device, as by :meth:`Examples.batch`.

        Args:
            indices: Positions, int64, shape ``(B,)`` or ``(K, B)``, on the host.

        Returns:
            Inputs and targets, of the indices' shape and that of an example; the targets are None where there are none.
        """
        first = self.inputs if isinstance(self.inputs, Tensor) else next(iter(self.inputs.values()))
        return super().batch(indices.to(first.device, non_blocking=True))


def _joined(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    """The parts one after another, with no copy of the whole anywhere else."""
    first = parts[0]
    whole = torch.empty((sum(map(len, parts)), *first.shape[1:]), dtype=first.dtype, device=device)
    for place, part in zip(whole.split([len(part) for part in parts]), parts, strict=True):
        place.copy_(part)
    return whole
