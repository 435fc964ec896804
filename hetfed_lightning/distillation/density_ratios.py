"""Density ratios: how much more often a participant sees an input with a class than the public set has that input.

Participants whose networks have nothing in common are comparable by them, since all are measured against one public
set. They are estimated by probabilistic classification: a softmax regression on features tells own classes from the
public set, and its log-odds are log density ratios.

Reference:
    Sugiyama, Suzuki, Kanamori (2012). Density ratio estimation in machine learning, section 4.1 (probabilistic
    classification). Ours has one class for the public set and several for the own examples, and is cross-fitted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

FLOOR = -30.0
"""Log ratio of a class without own examples: e^-30 of nothing."""

FOLDS = 2
"""Parts of the public set; each is predicted by a regression that was fitted on the others, since a regression that
has seen an input calls it public."""

ITERATIONS = 25
"""Iterations of L-BFGS, from zero; the gradient is then below a thousandth of its start."""


@torch.no_grad()
def log_density_ratios(own: Tensor, targets: Tensor, public: Tensor, width: int, *, penalty: float = 1.0) -> Tensor:
    """Log ratios ``log(n_c p(x|c) / (P p_public(x)))`` of every public example and class, shape ``(P, C)``.

    ``n_c`` is the number of own examples of class c, ``p`` are densities of features. No value exceeds ``log(n_c)``:
    the ratios of a class sum to its count over the public set, as the mean of a density ratio is one.

    Args:
        own: Features of the own examples, shape ``(N, D)``.
        targets: Classes of the own examples, shape ``(N,)``, integers from 0.
        public: Features of the public examples, shape ``(P, D)``, P at least 2.
        width: Number of classes C.
        penalty: Weight of half the squared norm of the regression's coefficients, at least 0.

    Returns:
        In the dtype of ``public``; ``FLOOR`` for classes without own examples.

    Raises:
        ValueError: If the public set has fewer than two examples.
    """
    count = len(public)
    if count < FOLDS:
        raise ValueError(f"density ratios need a public set of at least {FOLDS} examples, got {count}")
    centre, scale = public.mean(dim=0), public.std(dim=0) + 1e-3
    own, public = (own.flatten(1) - centre) / scale, (public - centre) / scale
    present, places = targets.unique(return_inverse=True)
    found = public.new_full((count, width), FLOOR)
    fold = torch.arange(count, device=public.device) % FOLDS
    for index in range(FOLDS):
        here, others = fold == index, public[fold != index]
        labels = torch.cat([places, places.new_full((len(others),), len(present))])
        coefficients = _softmax_regression(torch.cat([own, others]), labels, len(present) + 1, penalty)
        logits = _with_ones(public[here]) @ coefficients
        ratios = logits[:, :-1] - logits[:, -1:] + math.log(len(others) / count)
        part = found[here]
        part[:, present] = ratios
        found[here] = part
    most = torch.bincount(places, minlength=len(present)).to(found).log()
    found[:, present] = found[:, present].clamp(FLOOR, None).minimum(most)
    return found


def _softmax_regression(inputs: Tensor, labels: Tensor, classes: int, penalty: float) -> Tensor:
    """Coefficients and bias of a penalised softmax regression, shape ``(D + 1, C)``; the bias has no penalty."""
    inputs = _with_ones(inputs)
    found = torch.zeros(inputs.shape[1], classes, dtype=inputs.dtype, device=inputs.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(inputs @ found, labels, reduction="sum")
        value = value + penalty / 2 * found[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return found.detach()


def _with_ones(inputs: Tensor) -> Tensor:
    return torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
