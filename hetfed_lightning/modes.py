"""Evaluation mode for a while: afterwards every module is in the mode it was in.

``module.train(was_training)`` would not do. It sets the mode of the whole tree, and a pre-trained BatchNorm that its
owner keeps in ``eval()`` would go on with the batch's statistics, and overwrite its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*roots: nn.Module) -> Iterator[None]:
    """A context in which modules are in evaluation mode, with all that they hold.

    Args:
        roots: Each with its submodules; every one of them returns to its own mode, also after an error.
    """
    modes = modes_of(roots)
    try:
        for root in roots:
            root.eval()
        yield
    finally:
        restore(modes)


def modes_of(roots: Iterable[nn.Module]) -> list[tuple[nn.Module, bool]]:
    """Every module below ``roots`` beside whether it is in training mode."""
    return [(module, module.training) for root in roots for module in root.modules()]


def restore(modes: Iterable[tuple[nn.Module, bool]]) -> None:
    """Put modules back into the modes that :func:`modes_of` found."""
    for module, training in modes:
        module.training = training
