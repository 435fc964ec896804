"""Parameters of several participants in one tensor with a row for each, on which a fleet computes.

A row holds all trainable parameters of one participant one after another, so that an optimizer, a norm or an average is
one operation for the whole fleet. A layer's weights of all participants are a view ``(N, out, in)``, which batched
products take as it is. Each parameter begins at a multiple of 64 bytes, with zeros before it: products that write to
other addresses take half as long again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

ALIGNMENT = 16
"""Number of elements between the places at which a parameter may begin."""


class Stack:
    """Room for the parameters of ``count`` participants, shape ``(N, width)``.

    Args:
        layout: Shape of each parameter, by key.
        count: Number of participants, N.
        like: Tensor of the wanted dtype and device, of any shape.
    """

    def __init__(self, layout: Mapping[str, torch.Size], count: int, like: Tensor) -> None:
        self.layout = dict(layout)
        self.starts: dict[str, int] = {}
        self.width = 0
        for key in self.layout:
            self.starts[key] = self.width
            self.width = self._stop(key)
        # A row takes memory when it is first cleared, so that members can free theirs one after another.
        self.flat = torch.empty(count, self.width, dtype=like.dtype, device=like.device)
        self._cleared = [False] * count
        self._gradients: Tensor | None = None

    def clear(self, index: int) -> None:
        """Fill a row with zeros, the first time only: the gaps between parameters must not count in norms and sums."""
        if not self._cleared[index]:
            self.flat[index].zero_()
            self._cleared[index] = True

    @property
    def count(self) -> int:
        """Number of participants that the stack has room for, N."""
        return len(self.flat)

    @property
    def gradients(self) -> Tensor:
        """Room for the participants' gradients, shape ``(N, width)``; made when first asked for, then kept."""
        if self._gradients is None:
            self._gradients = torch.zeros_like(self.flat)
        return self._gradients

    def free_gradients(self) -> None:
        """Free the room for gradients until it is asked for again."""
        self._gradients = None

    def by_key(self, flat: Tensor) -> dict[str, Tensor]:
        """Views ``(K, *shape)`` of each parameter in rows that are laid out like this stack's, shape ``(K, width)``."""
        return {
            key: flat[:, start : start + shape.numel()].view(-1, *shape)
            for (key, shape), start in zip(self.layout.items(), self.starts.values(), strict=True)
        }

    def columns(self, keys: Iterable[str]) -> list[slice]:
        """Columns of a row with the parameters of some keys; neighbours are one slice, with the gaps between them."""
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
        """Views of one participant's parameters, of the layout's shapes, in the order of the layout.

        Args:
            index: Row of the participant.
            flat: Other rows laid out like this stack's, shape ``(K, width)``.
        """
        own = (self.flat if flat is None else flat)[index]
        return [
            own[start : start + shape.numel()].view(shape)
            for start, shape in zip(self.starts.values(), self.layout.values(), strict=True)
        ]


def rows_of(places: Sequence[int]) -> slice | list[int]:
    """Index of ascending places: a slice, which makes a view, if they follow each other; else a list, which copies."""
    if len(places) == places[-1] + 1 - places[0]:
        return slice(places[0], places[-1] + 1)
    return list(places)


@torch.no_grad()
def take_in(parameters: Iterable[nn.Parameter], row: Sequence[Tensor]) -> int:
    """Bytes of memory that parameters have left to become views of their row; values are copied.

    Args:
        parameters: Parameters of one participant, of the layout's shapes.
        row: Views of its row, as :meth:`Stack.row` gives them.
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
    """Give parameters memory of their own again if they are views of their row still.

    Args:
        parameters: Parameters of one participant, of the layout's shapes.
        row: Views of its row, as :meth:`Stack.row` gives them.
    """
    for parameter, view in zip(parameters, row, strict=True):
        if parameter.data_ptr() == view.data_ptr():
            parameter.data = view.clone()
