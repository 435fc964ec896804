"""Split of one participant's samples into training, validation and test parts."""

from __future__ import annotations

import logging
import operator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.labels import require_class_labels

__all__ = ["split_own", "split_train_val_test"]

log = logging.getLogger(__name__)


def split_train_val_test(
    samples: int | Tensor,
    fractions: tuple[float, float, float],
    seed: int,
    stratify: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of the training, validation and test samples, three tensors ``(n,)``.

    The same arguments always give the same parts; the global random generators are neither read nor moved.

    Args:
        samples: Their number N, or their labels, N along the first dimension.
        fractions: Shares of training, validation and test, each in [0, 1], summing to one.
        seed: Seed of this split alone, 0 or more.
        stratify: True to keep the classes' shares in each part, as far as whole samples allow; needs class labels.

    Returns:
        Three tensors of sorted int64 positions, together every position from 0 to N - 1 once. A part of a positive
        fraction has at least one; a part of fraction zero is empty.

    Raises:
        DataError: If the fractions are no shares, there are fewer samples than parts, or ``stratify`` has no class
            labels to go by.
    """
    shares = _checked_shares(fractions)
    if isinstance(samples, Tensor) and samples.ndim == 0:
        raise DataError(f"expected labels of shape (n,), or a number of samples, got a tensor of shape () ({samples})")
    num_samples = len(samples) if isinstance(samples, Tensor) else operator.index(samples)
    parts = int((shares > 0).sum())
    if num_samples < parts:
        raise DataError(
            f"cannot split {num_samples} sample(s) into {parts} parts of at least one each (fractions "
            f"{fractions}): add samples or set a fraction to 0"
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise DataError(f"expected an integer seed of 0 or more, got {seed!r}")
    generator = np.random.default_rng(seed)
    members = [generator.permutation(group) for group in _groups(samples, num_samples, stratify=stratify)]
    counts = _at_least_one(_shared_out(np.array([len(group) for group in members]), shares), shares)
    pieces = [np.split(group, row.cumsum()[:-1]) for group, row in zip(members, counts, strict=True)]
    train, validation, test = (np.sort(np.concatenate(part)) for part in zip(*pieces, strict=True))
    return torch.from_numpy(train), torch.from_numpy(validation), torch.from_numpy(test)


def split_own(
    name: str,
    samples: int | Tensor,
    fractions: tuple[float, float, float],
    seed: int,
    stratify: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of a participant's training, validation and test samples; all train if they are too few to split.

    Args:
        name: Name of the participant, for messages.
        samples: As for :func:`split_train_val_test`.
        fractions: As for :func:`split_train_val_test`.
        seed: As for :func:`split_train_val_test`.
        stratify: As for :func:`split_train_val_test`.

    Returns:
        Three tensors of positions, as by :func:`split_train_val_test`.

    Raises:
        DataError: As :func:`split_train_val_test`, naming the participant.
    """
    count = len(samples) if isinstance(samples, Tensor) and samples.ndim else samples
    try:
        shares = _checked_shares(fractions)
        if isinstance(count, int) and 0 < count < int((shares > 0).sum()) and shares[0] > 0:
            log.warning(
                "participant %r: its %s, and none is left to validate or test on: it is not evaluated.",
                name, "1 example trains" if count == 1 else f"{count} examples train",
            )  # fmt: skip
            return torch.arange(count), torch.arange(0), torch.arange(0)
        return split_train_val_test(samples, fractions, seed, stratify)
    except DataError as error:
        raise DataError(f"participant {name!r}: {error}") from error


def _checked_shares(fractions: tuple[float, float, float]) -> NDArray[np.float64]:
    if len(fractions) != 3:
        raise DataError(f"expected three fractions (training, validation, test), got {fractions}")
    if not all(isinstance(share, int | float) and 0 <= share <= 1 for share in fractions):
        raise DataError(f"expected fractions in [0, 1], got {fractions}")
    if abs(sum(fractions) - 1) > 1e-6:
        raise DataError(
            f"expected fractions of training, validation and test that sum to 1, got {fractions}: {sum(fractions):g}"
        )
    shares = np.array(fractions, dtype=np.float64)
    normalised: NDArray[np.float64] = shares / shares.sum()
    return normalised


def _groups(samples: int | Tensor, num_samples: int, *, stratify: bool) -> list[NDArray[np.int64]]:
    everything = np.arange(num_samples, dtype=np.int64)
    if not stratify:
        return [everything]
    if not isinstance(samples, Tensor):
        raise DataError(
            f"stratify needs the labels of the samples, got their number {samples}: give labels or turn it off"
        )
    classes = require_class_labels(samples.detach().cpu()).numpy()
    return [np.flatnonzero(classes == label) for label in np.unique(classes)]


def _shared_out(sizes: NDArray[np.int64], shares: NDArray[np.float64]) -> NDArray[np.int64]:
    # The remainder of a class goes to the parts furthest behind so far: then small classes do not all round
    # towards the same part.
    counts = np.floor(sizes[:, None] * shares).astype(np.int64)
    behind = np.zeros(len(shares))
    for row, size in zip(counts, sizes, strict=True):
        behind += size * shares - row
        left = int(size - row.sum())
        order = np.argsort(np.where(shares > 0, -behind, np.inf), kind="stable")[:left]
        row[order] += 1
        behind[order] -= 1
    return counts


def _at_least_one(counts: NDArray[np.int64], shares: NDArray[np.float64]) -> NDArray[np.int64]:
    for part in np.flatnonzero((counts.sum(axis=0) == 0) & (shares > 0)):
        donor = counts.sum(axis=0).argmax()
        group = counts[:, donor].argmax()
        counts[group, donor] -= 1
        counts[group, part] += 1
    return counts
