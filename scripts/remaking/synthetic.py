"""Synthetic(alpha, beta): softmax regressions that differ by participant (Li et al. 2020, section 5.1)."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn

from hetfed_lightning import Federation, Participant
from hetfed_lightning.data import Examples

INPUTS, CLASSES = 60, 10


def drawn(
    alpha: float, beta: float, participants: int, seed: int, *, times: int = 1, train: float = 0.9
) -> tuple[dict[str, Examples], dict[str, Examples]]:
    """Training and test sets by participant, inputs ``(n, 60)`` in float32, drawn as the paper says.

    Sizes are ``times`` a log-normal number plus 50. The optimal weights of a participant are normal about a mean that
    is normal of deviation ``alpha``, its inputs about a mean that is about one of deviation ``beta``.

    Args:
        alpha: Deviation of the weights' means.
        beta: Deviation of the inputs' means.
        participants: Number of participants.
        seed: Of all draws.
        times: Factor of all sizes; 1 in FedProx, 5 in pFedMe.
        train: Share of the training set; .9 in FedProx, .75 in pFedMe.
    """
    draw = np.random.RandomState(seed)
    sizes = (draw.lognormal(4, 2, participants).astype(int) + 50) * times
    weight_means, input_means = draw.normal(0, alpha, participants), draw.normal(0, beta, participants)
    centres = np.stack([draw.normal(mean, 1, INPUTS) for mean in input_means])
    deviations = np.arange(1, INPUTS + 1) ** -0.6
    training, test = {}, {}
    for place, size in enumerate(sizes):
        weight = draw.normal(weight_means[place], 1, (INPUTS, CLASSES))
        bias = draw.normal(weight_means[place], 1, CLASSES)
        inputs = centres[place] + deviations * draw.normal(size=(size, INPUTS))
        targets = torch.from_numpy((inputs @ weight + bias).argmax(axis=1))
        values = torch.from_numpy(inputs).float()
        cut = int(train * size)
        name = f"p{place:02d}"
        training[name], test[name] = Examples(values[:cut], targets[:cut]), Examples(values[cut:], targets[cut:])
    return training, test


def softmax_regressions(
    names: list[str], rate: float, seed: int, *, participation: float, **settings: int
) -> Federation:
    """Federation of participants that share one linear layer, which begins with zeros.

    Args:
        names: Of the participants.
        rate: Learning rate of SGD.
        seed: Of batches and samples.
        participation: Fraction of those that train in a round.
        settings: Further arguments of participants.
    """
    made = {}
    for name in names:
        backbone = nn.Linear(INPUTS, CLASSES)
        for one in backbone.parameters():
            nn.init.zeros_(one)
        optimizer = functools.partial(torch.optim.SGD, lr=rate)
        made[name] = Participant(backbone, shared=("*",), optimizer=optimizer, **settings)  # type: ignore[arg-type]
    return Federation(made, seed=seed, participation=participation)


def accuracy(predicted: dict[str, Tensor], sets: dict[str, Examples]) -> float:
    """Share of all participants' examples that are told right, in percent.

    Args:
        predicted: Outputs by participant.
        sets: Examples by participant.
    """
    right = sum(int((one.argmax(1) == torch.as_tensor(sets[name].targets)).sum()) for name, one in predicted.items())
    return 100 * right / sum(len(sets[name]) for name in predicted)
