"""Blocks of batches: the batches of several participants in one tensor, shorter ones padded, for fleets.

A round's loader gathers a block at once and hands out each participant's batch as a view of it, so that everything is
indexed, moved and stacked in a handful of operations however many participants there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hetfed_lightning.data.device_residency import Resident
from hetfed_lightning.data.examples import Examples, is_plain

JOINED_BYTES = 64 * 2**20
"""Most bytes of the data of a block's participants that is copied into one tensor, from which a block is one gather."""

JOINED_EXAMPLE = 2**10
"""Most bytes of an example for that.

Larger ones take longer to copy than a gather per participant takes to call, and are not held twice.
"""


@dataclass(frozen=True)
class StackedBatch:
    """One batch of each of K participants.

    Attributes:
        inputs: Shape ``(K, B, ...)``, one tensor or one per name; zeros where a batch is shorter than the longest.
        targets: Shape ``(K, B, ...)``.
        mask: True where there is an example, shape ``(K, B)``; None if all batches are of one length.
        sizes: Examples of each participant.
    """

    inputs: Any
    targets: Tensor
    mask: Tensor | None
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of participants, K."""
        return len(self.sizes)

    def first(self, count: int) -> StackedBatch:
        """The batches of the first ``count`` participants, as views."""
        if count == self.count:
            return self
        mask = None if self.mask is None else self.mask[:count]
        return StackedBatch(_first(self.inputs, count), self.targets[:count], mask, self.sizes[:count])

    def pick(self, places: Sequence[int]) -> StackedBatch:
        """The batches of the participants at ``places`` in 0 to K - 1, in that order, copied."""
        chosen = list(places)
        if chosen == list(range(self.count)):
            return self
        mask = None if self.mask is None else self.mask[chosen]
        inputs = _map(self.inputs, lambda tensor: tensor[chosen])
        return StackedBatch(inputs, self.targets[chosen], mask, tuple(self.sizes[place] for place in chosen))

    def filled(self) -> StackedBatch:
        """The same batches with the first example of each where it was padded.

        Zeros would do for losses that are masked, but not for their gradients: a root has none at 0.
        """
        if self.mask is None:
            return self
        places = torch.arange(self.mask.shape[1], device=self.mask.device)
        columns = torch.where(self.mask, places, 0)
        rows = torch.arange(self.count, device=self.mask.device)[:, None]
        inputs = _map(self.inputs, lambda tensor: tensor[rows, columns])
        return StackedBatch(inputs, self.targets[rows, columns], self.mask, self.sizes)

    def to(self, device: torch.device) -> StackedBatch:
        """The same batches on ``device``; itself if they are there already."""
        if self.targets.device == device:
            return self
        return StackedBatch(
            _map(self.inputs, lambda tensor: tensor.to(device, non_blocking=True)),
            self.targets.to(device, non_blocking=True),
            None if self.mask is None else self.mask.to(device, non_blocking=True),
            self.sizes,
        )

    def parts(self) -> list[tuple[Any, Tensor]]:
        """Inputs and targets ``(B, ...)`` of each participant, K pairs, as views without padding."""
        inputs, targets = _unbound(self.inputs), self.targets.unbind()
        if self.mask is None:
            return list(zip(inputs, targets, strict=True))
        return [
            (_first(own, size), target[:size]) for own, target, size in zip(inputs, targets, self.sizes, strict=True)
        ]


class RoundBatch(dict[str, Any]):
    """Batches by participant, and the blocks that some of them are views of.

    Attributes:
        blocks: Blocks by the names of their participants, in the block's order.
    """

    def __init__(self, batches: Mapping[str, Any] = {}) -> None:
        super().__init__(batches)
        self.blocks: dict[tuple[str, ...], StackedBatch] = {}

    def add(self, names: Sequence[str], block: StackedBatch) -> None:
        """Add a block and the batches in it.

        Args:
            names: Participants of the block, K of them, in its order.
            block: Their batches.
        """
        self.blocks[tuple(names)] = block
        self.update(zip(names, block.parts(), strict=True))

    def arrange(self, names: Iterable[str]) -> None:
        """Bring the batches into the order of ``names``; names without a batch are passed over."""
        order = [name for name in names if name in self]
        if order != list(self):
            batches = dict(self)
            self.clear()
            self.update({name: batches[name] for name in order})

    def to(self, device: torch.device, move: Callable[[Any], Any]) -> Self:
        """The same batches on another device; itself if all of them are in blocks that are there already.

        Args:
            device: The device to move to.
            move: Moves a batch that is in no block.
        """
        together = {name for names in self.blocks for name in names}
        alone = {name: move(batch) for name, batch in self.items() if name not in together}
        if not alone and all(block.targets.device == device for block in self.blocks.values()):
            return self
        moved = type(self)(alone)
        for names, block in self.blocks.items():
            moved.add(names, block.to(device))
        moved.arrange(self)
        return moved

    def block_of(self, names: Sequence[str]) -> StackedBatch | None:
        """Block of the batches of ``names``, in that order; None if no block begins with them."""
        wanted = tuple(names)
        for found, block in self.blocks.items():
            if found[: len(wanted)] == wanted:
                return block.first(len(wanted))
        return None


class BlockSource:
    """Blocks out of the in-memory data of participants whose examples have equal shapes and dtypes.

    Args:
        datasets: By name; as :func:`alike` groups them.
        home: Device on which the data is to live and blocks come out; None for the host.
    """

    def __init__(self, datasets: Mapping[str, Examples], home: torch.device | None = None) -> None:
        self.datasets = dict(datasets)
        self._home = home
        self._whole: Examples | None = None
        distinct = {id(dataset): dataset for dataset in self.datasets.values()}  # Participants may share a data set.
        if home is not None:
            self._whole = Resident.of(list(distinct.values()), home)
        elif _is_worth_joining(list(distinct.values())):
            self._whole = Examples.pooled(list(distinct.values()))
        starts = dict(zip(distinct, accumulate(map(len, distinct.values()), initial=0), strict=False))
        self._starts = {name: starts[id(dataset)] for name, dataset in self.datasets.items()}
        self._first: tuple[tuple[str, ...], Tensor] = (), torch.empty(0)

    def block(self, indices: Mapping[str, Tensor]) -> StackedBatch:
        """Block of one batch of each participant in ``indices``.

        Args:
            indices: Positions in each participant's data, by name, shape ``(B,)`` each, on the host.

        Returns:
            The block, padded with zeros where lengths differ.
        """
        sizes = tuple(own.numel() for own in indices.values())  # `len` of a tensor takes twenty times as long.
        ragged = min(sizes) < max(sizes)
        if self._whole is None or (ragged and self._home is None):
            return self._gathered(indices, sizes)
        own = list(indices.values())
        positions = pad_sequence(own, batch_first=True) if ragged else torch.stack(own)
        inputs, targets = self._whole.batch(positions + self._starts_of(tuple(indices)))
        block = StackedBatch(inputs, targets, None, sizes)  # type: ignore[arg-type]  # alike() asks for targets
        return _blanked(block) if ragged else block

    def _starts_of(self, names: tuple[str, ...]) -> Tensor:
        """First positions of participants in the data of all, shape ``(K, 1)``; kept for as long as names are equal."""
        if self._first[0] != names:
            self._first = names, torch.tensor([[self._starts[name]] for name in names])
        return self._first[1]

    def _gathered(self, indices: Mapping[str, Tensor], sizes: tuple[int, ...]) -> StackedBatch:
        """Block into which each participant's examples are copied one after another."""
        chosen = list(indices.values())

        def gather(parts: Sequence[Tensor]) -> Tensor:
            block = parts[0].new_empty((len(sizes), max(sizes), *parts[0].shape[1:]))
            for part, own, size, place in zip(parts, chosen, sizes, block, strict=True):
                torch.index_select(part, 0, own, out=place[:size])
                place[size:] = 0
            return block

        datasets = [self.datasets[name] for name in indices]
        targets = gather([cast("Tensor", dataset.targets) for dataset in datasets])  # alike() asks for them
        inputs: Any
        if isinstance(datasets[0].inputs, Tensor):
            inputs = gather([cast("Tensor", dataset.inputs) for dataset in datasets])
        else:
            inputs = {key: gather([dataset.inputs[key] for dataset in datasets]) for key in datasets[0].inputs}  # type: ignore[index]
        return StackedBatch(inputs, targets, _mask(sizes, targets.device) if min(sizes) < max(sizes) else None, sizes)


def _is_worth_joining(datasets: Sequence[Examples]) -> bool:
    size = sum(dataset.num_bytes for dataset in datasets)
    return size <= min(JOINED_BYTES, JOINED_EXAMPLE * sum(map(len, datasets)))


def alike(datasets: Mapping[str, Any], *, least: int = 2) -> list[dict[str, Examples]]:
    """Groups of participants whose in-memory examples have the same shapes and dtypes, with targets.

    Args:
        datasets: Data sets by name; those that are not in memory are in no group.
        least: Participants that make a group, at least.
    """
    kin: dict[Any, dict[str, Examples]] = defaultdict(dict)
    for name, dataset in datasets.items():
        if is_plain(dataset) and dataset.targets is not None:
            named = {"": dataset.inputs} if isinstance(dataset.inputs, Tensor) else dataset.inputs
            layout = {key: (tuple(value.shape[1:]), str(value.dtype)) for key, value in named.items()}
            kin[repr(layout), tuple(dataset.targets.shape[1:]), str(dataset.targets.dtype)][name] = dataset
    return [group for group in kin.values() if len(group) >= least]


def stacked(batches: Sequence[Any]) -> StackedBatch | None:
    """Block of several batches; None if they cannot be stacked.

    Args:
        batches: One batch of each of K participants, ``(inputs, targets)`` of shape ``(B, ...)``.

    Returns:
        The block; None if an input is neither a tensor nor a dictionary of tensors, or examples differ in shape.
    """
    if any(not isinstance(batch, (tuple, list)) or len(batch) != 2 for batch in batches):
        return None
    targets, inputs = _stack([batch[1] for batch in batches]), _stack([batch[0] for batch in batches])
    if inputs is None or not isinstance(targets, Tensor):
        return None
    sizes = tuple(len(batch[1]) for batch in batches)
    mask = _mask(sizes, targets.device) if min(sizes) < max(sizes) else None
    return StackedBatch(inputs, targets, mask, sizes)


def _mask(sizes: Sequence[int], device: torch.device) -> Tensor:
    """True where there is an example, shape ``(K, B)``."""
    return torch.arange(max(sizes), device=device) < torch.tensor(sizes, device=device)[:, None]


def _blanked(block: StackedBatch) -> StackedBatch:
    """The block with its padding set to zero, in place, and with its mask."""
    mask = _mask(block.sizes, block.targets.device)

    def blank(tensor: Tensor) -> Tensor:
        return tensor.masked_fill_(~mask.view(*mask.shape, *[1] * (tensor.ndim - 2)), 0)

    return StackedBatch(_map(block.inputs, blank), blank(block.targets), mask, block.sizes)


def _stack(values: Sequence[Any]) -> Tensor | dict[str, Tensor] | None:
    first = values[0]
    if isinstance(first, Mapping):
        columns = {key: _stack([value[key] for value in values]) for key in first}
        return None if any(not isinstance(column, Tensor) for column in columns.values()) else columns  # type: ignore[return-value]
    if not isinstance(first, Tensor) or first.ndim == 0:
        return None
    if any(value.shape[1:] != first.shape[1:] or value.dtype != first.dtype for value in values):
        return None
    if all(len(value) == len(first) for value in values):
        return torch.stack(list(values))
    return pad_sequence(list(values), batch_first=True)


def _map(inputs: Any, function: Any) -> Any:
    return {key: function(value) for key, value in inputs.items()} if isinstance(inputs, dict) else function(inputs)


def _first(inputs: Any, count: int) -> Any:
    return _map(inputs, lambda tensor: tensor[:count])


def _unbound(inputs: Any) -> Sequence[Any]:
    if isinstance(inputs, dict):
        return [
            dict(zip(inputs, parts, strict=True)) for parts in zip(*(v.unbind() for v in inputs.values()), strict=True)
        ]
    return inputs.unbind()  # type: ignore[no-any-return]


def bytes_of(inputs: Any) -> int | None:
    """Bytes of a tensor or of several by name; None for anything else."""
    named = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
    return sum(tensor.nbytes for tensor in named) if all(isinstance(one, Tensor) for one in named) else None
