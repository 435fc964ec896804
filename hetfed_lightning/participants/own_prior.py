"""Answers for a participant's own data: outputs under its own class prior in place of a uniform one.

Targets under a uniform class prior, such as those of ``DensityRatioPosterior``, teach ``q(c|x) ~ p(x|c)``, which is
right about everyone's data. At home some classes are frequent and others absent, and Bayes' rule for such data is
``q(c|x) * share_c``. Not for networks that learn from their own data alone: their outputs have that prior already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hetfed_lightning.distillation.outputs import at_least_float32

SMOOTHING = 0.5
"""Examples added to every class, so that a class without any keeps a share above 0."""

KINDS_WITH_CLASSES = ("multiclass", "binary", "multilabel")
"""Kinds of outputs that have class shares."""

CLASS_SHARES = "class_shares"
"""Key of the class shares in a participant's part of a checkpoint, and in an exported file."""


def class_shares(counts: Tensor, num_samples: int, kind: str) -> tuple[float, ...]:
    """Shares of the classes in a training set, each above 0 and below 1, after :data:`SMOOTHING`.

    Args:
        counts: Result of ``Task.class_counts``: shape ``(C,)``, ``(2,)`` for binary outputs, positive examples of each
            label for multilabel ones.
        num_samples: Number of training examples.
        kind: ``"multiclass"``, ``"binary"`` or ``"multilabel"``.

    Returns:
        C shares that sum to one; of a multilabel task the share of positive examples of each label.
    """
    sides = 2 if kind == "multilabel" else len(counts)  # Each label is present or absent.
    smoothed = (counts.double() + SMOOTHING) / (num_samples + SMOOTHING * sides)
    return tuple(smoothed.tolist())


def under_own_prior(outputs: Tensor, shares: tuple[float, ...], weight: float, kind: str) -> Tensor:
    """Logits of a posterior under a uniform class prior, moved to the prior of the shares.

    Args:
        outputs: Logits, shape ``(B, C)``; binary ones also ``(B,)``.
        shares: Class shares as :func:`class_shares` gives them.
        weight: Power of the shares, at least 0: 1 is Bayes' rule, 0 leaves the logits as they are.
        kind: Kind of the outputs.

    Returns:
        The same shape, float32 at least.

    Raises:
        ValueError: If there are more or fewer shares than outputs.

    Reference:
        Saerens, Latinne and Decaestecker (2002), Adjusting the outputs of a classifier to new a priori probabilities,
        section 2: posteriors times the ratio of the priors.
    """
    outputs = at_least_float32(outputs)
    width = 1 if outputs.ndim == 1 else outputs.shape[-1]
    expected = 2 if kind == "binary" else width
    if len(shares) != expected:
        raise ValueError(f"expected {expected} class shares for {width} output(s), got {len(shares)}")
    logs = outputs.new_tensor(shares).log()
    if kind == "binary":
        return outputs + weight * (logs[1] - logs[0])
    if kind == "multilabel":
        return outputs + weight * outputs.new_tensor(shares).logit()
    return outputs + weight * logs


def check_own_prior(weight: float, kind: str) -> None:
    """Refuse a weight out of its range, or one of a task without classes.

    Args:
        weight: Argument ``own_prior``.
        kind: Kind of the task's outputs.

    Raises:
        ValueError: If it is refused.
    """
    if isinstance(weight, bool) or not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"own_prior: expected a finite number of at least 0, got {weight!r}.")
    if weight and kind not in KINDS_WITH_CLASSES:
        raise ValueError(
            f"own_prior: {weight} weighs the shares of classes, and outputs of kind {kind!r} have none. Leave it out, "
            f"or take a task of a kind with classes: {', '.join(KINDS_WITH_CLASSES)}."
        )


def saved_shares(found: Mapping[str, Any]) -> tuple[float, ...]:
    """Class shares out of a checkpoint or an export, checked.

    Args:
        found: Entries with the shares under :data:`CLASS_SHARES`.

    Raises:
        ValueError: If they are no numbers above 0 and below 1, or none at all.
    """
    shares = found.get(CLASS_SHARES)
    if not isinstance(shares, (list, tuple)) or not shares or not all(map(_is_share, shares)):
        raise ValueError(f"expected a list of numbers in (0, 1) under {CLASS_SHARES!r}, got {shares!r:.80}")
    return tuple(map(float, shares))


def _is_share(value: Any) -> bool:
    return type(value) is float and 0 < value < 1
