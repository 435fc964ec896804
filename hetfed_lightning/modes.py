"""Evaluation mode for the length of a context, after which every module has its own mode again.

``module.train(was_training)`` would not do: it sets the mode of the whole tree. A pre-trained BatchNorm that its owner
keeps in ``eval()`` would then normalise by the batch's statistics and overwrite its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*roots: nn.Module) -> Iterator[None]:
    """Context in which modules and all their submodules are in evaluation mode.

    Args:
        roots: Modules; afterwards, also after an error, each submodule returns to its own mode.
    """
    modes = modes_of(roots)
    try:
        for root in roots:
            root.eval()
        yield
    finally:
        restore(modes)


def modes_of(roots: Iterable[nn.Module]) -> list[tuple[nn.Module, bool]]:
    """Every module below ``roots``, with True if it is in training mode."""
    return [(module, module.training) for root in roots for module in root.modules()]


def restore(modes: Iterable[tuple[nn.Module, bool]]) -> None:
    """Set modules to the modes that :func:`modes_of` returned."""
    for module, training in modes:
        module.training = training
