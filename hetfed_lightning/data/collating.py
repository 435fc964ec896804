"""Batches of samples that are read one by one: by torch's default, or by the user's ``collate_fn``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples

__all__ = ["Collate", "NamedCollate", "batch_of", "collated"]

Collate = Callable[[list[Any]], Any]
"""Function from a list of samples to a batch: ``(inputs, target)``, or a form that a participant's own steps take."""


class NamedCollate:
    """Batches of samples, with errors that name the owner of samples that fit into no batch.

    Args:
        collate_fn: Makes a batch; torch's default if None.
    """

    def __init__(self, collate_fn: Collate | None = None) -> None:
        self.collate_fn = collate_fn

    def __call__(self, named: Sequence[tuple[str, Any]]) -> Any:
        """Batch of the samples of one owner.

        Args:
            named: Pairs of the owner, as messages name it, and a sample.

        Raises:
            DataError: If they cannot be put into one batch.
        """
        return collated([sample for _, sample in named], named[0][0], self.collate_fn)


def collated(samples: list[Any], owner: str, collate_fn: Collate | None = None) -> Any:
    """Batch of some samples.

    Args:
        samples: As the data set yields them.
        owner: Owner of the samples, for messages: ``"participant 'a'"``.
        collate_fn: Makes a batch; torch's default if None.

    Raises:
        DataError: If they cannot be put into one batch.
    """
    try:
        if collate_fn is not None:
            return collate_fn(samples)
        return default_collate([tuple(one) if isinstance(one, list) else one for one in samples])
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        if collate_fn is not None:
            raise DataError(
                f"{owner}: collate_fn cannot make a batch of its {len(samples)} samples, each {_form(samples[0])} "
                f"({found}). It gets samples as the data set yields them, those of the public set too."
            ) from error
        raise DataError(
            f"{owner}: its samples do not go into one batch, the first is {_form(samples[0])}, the last "
            f"{_form(samples[-1])} ({found}). Bring them to one size, or give collate_fn=..., which makes a batch of a "
            "list of samples."
        ) from error


def batch_of(
    dataset: Dataset[Any], indices: Iterable[int], collate_fn: Collate | None = None, owner: str = "a data set"
) -> Any:
    """Some examples of a data set as one batch: ``(inputs, targets)``, or inputs alone where there are no targets.

    Args:
        dataset: In memory, or read sample by sample.
        indices: Positions in the data set, B of them.
        collate_fn: Makes a batch of samples that are read one by one; torch's default if None.
        owner: Owner of the data set, for messages.

    Raises:
        DataError: If the samples cannot be put into one batch.
    """
    if isinstance(dataset, Examples):
        inputs, targets = dataset.batch(torch.tensor(list(indices), dtype=torch.int64))
        return inputs if targets is None else (inputs, targets)
    return collated([dataset[index] for index in indices], owner, collate_fn)


def _form(sample: Any) -> str:
    """A sample's form in a few words."""
    if isinstance(sample, Tensor):
        return f"a tensor of shape {tuple(sample.shape)}"
    if isinstance(sample, Mapping):
        return "{" + ", ".join(f"{key}: {_form(value)}" for key, value in list(sample.items())[:5]) + "}"
    if isinstance(sample, tuple) and len(sample) <= 3:
        return f"({', '.join(map(_form, sample))})"
    return type(sample).__name__
