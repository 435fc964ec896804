"""Parameters of several participants in one tensor, a row for each: what a fleet computes on.

One row holds all of a participant's trainable parameters one after another, so that an optimizer, a norm or an average
is one operation for the whole fleet, while a layer's weights of everyone are a view ``(N, out, in)`` that batched
products take as it is. Each parameter begins at a multiple of 64 bytes, with zeros before it: products that write to
other places take half as long again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

ALIGNMENT = 16
"""Numbers between the places at which a parameter may begin."""


class Stack:
    """Room for the parameters of ``count`` participants.

    Args:
        layout: Shape of each parameter, by key.
        count: Participants, N.
        like: Gives dtype and device.
    """

    def __init__(self, layout: Mapping[str, torch.Size], count: int, like: Tensor) -> None:
        self.layout = dict(layout)
        self.starts: dict[str, int] = {}
        self.width = 0
        for key in self.layout:
            self.starts[key] = self.width
            self.width = self._stop(key)
        # A row takes memory when it is first cleared: those who move in leave theirs one after another.
        self.flat = torch.empty(count, self.width, dtype=like.dtype, device=like.device)
        self._cleared = [False] * count
        self._gradients: Tensor | None = None

    def clear(self, index: int) -> None:
        """Fill a row with zeros, the first time: what is between parameters has to count for nothing."""
        if not self._cleared[index]:
            self.flat[index].zero_()
            self._cleared[index] = True

    @property
    def count(self) -> int:
        """Participants that it has room for, N."""
        return len(self.flat)

    @property
    def gradients(self) -> Tensor:
        """Room for their gradients, shape ``(N, width)``; made when first asked for, then kept."""
        if self._gradients is None:
            self._gradients = torch.zeros_like(self.flat)
        return self._gradients

    def free_gradients(self) -> None:
        """Give their room back until it is asked for again."""
        self._gradients = None

    def by_key(self, flat: Tensor) -> dict[str, Tensor]:
        """Views ``(K, *shape)`` of each parameter in rows laid out like this stack's, shape ``(K, width)``."""
        return {
            key: flat[:, start : start + shape.numel()].view(-1, *shape)
            for (key, shape), start in zip(self.layout.items(), self.starts.values(), strict=True)
        }

    def columns(self, keys: Iterable[str]) -> list[slice]:
        """Where the parameters of some keys lie in a row, neighbours in one piece; zeros between them included."""
        pieces: list[slice] = []
        for start, stop in sorted((self.starts[key], self._stop(key)) for key in keys):
            if pieces and pieces[-1].stop == start:
                pieces[-1] = slice(pieces[-1].start, stop)
            else:
                pieces.append(slice(start, stop))
        return pieces

    def _stop(self, key: str) -> int:
        return self.starts[key] + -(-self.layout[key].numel() // ALIGNMENT) * ALIGNMENT

    def row(self, index: int, flat: Tensor | None = None) -> list[Tensor]:
        """Views of one participant's parameters, in the order of the layout.

        Args:
            index: Of the participant.
            flat: Other rows laid out like this stack's.
        """
        own = (self.flat if flat is None else flat)[index]
        return [
            own[start : start + shape.numel()].view(shape)
            for start, shape in zip(self.starts.values(), self.layout.values(), strict=True)
        ]


def rows_of(places: Sequence[int]) -> slice | list[int]:
    """Places, in order, as a slice where they follow each other: those rows are a view, any others a copy."""
    if len(places) == places[-1] + 1 - places[0]:
        return slice(places[0], places[-1] + 1)
    return list(places)


@torch.no_grad()
def take_in(parameters: Iterable[nn.Parameter], row: Sequence[Tensor]) -> int:
    """Copy parameters into their row and make them views of it, where they are not.

    Returns:
        Bytes of memory that they have left.
    """
    left = 0
    for parameter, view in zip(parameters, row, strict=True):
        if parameter.data_ptr() != view.data_ptr():
            view.copy_(parameter.data)
            parameter.data = view
            parameter.grad = None
            left += view.nbytes
    return left


def give_back(parameters: Iterable[nn.Parameter], row: Sequence[Tensor]) -> None:
    """Give parameters memory of their own again where they are views of their row still."""
    for parameter, view in zip(parameters, row, strict=True):
        if parameter.data_ptr() == view.data_ptr():
            parameter.data = view.clone()
