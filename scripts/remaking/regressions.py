"""SCAFFOLD and FedDyn reach the minimiser of the mean loss, from which FedAvg with several local steps stays away."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from hetfed_lightning import BackboneAveraging, FederatedCallback, FederatedDataModule, Federation, Participant
from hetfed_lightning.data import Examples
from hetfed_lightning.methods.published.fed_dyn import FedDyn
from hetfed_lightning.methods.published.scaffold import Scaffold
from scripts.remaking.figures import Figure
from scripts.remaking.fitting import fit

NAMES = tuple("abcde")
RATE, LOCAL_STEPS = 0.1, 10


def drawn(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs ``(n, 4)`` and targets ``(n, 1)`` of five regressions with lines of their own, in float64."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for place, name in enumerate(NAMES):
        inputs = torch.randn(30 + 10 * place, 4, generator=generator, dtype=torch.float64)
        line = torch.randn(4, 1, generator=generator, dtype=torch.float64)
        noise = torch.randn(len(inputs), 1, generator=generator, dtype=torch.float64)
        found[name] = (inputs, inputs @ line + 0.1 * noise)
    return found


def minimiser(sets: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
    """Minimiser of the mean of the mean squared errors, shape ``(1, 4)``, by the normal equations."""
    moments = torch.stack([inputs.T @ inputs / len(inputs) for inputs, _ in sets.values()]).sum(dim=0)
    products = torch.stack([inputs.T @ targets / len(inputs) for inputs, targets in sets.values()]).sum(dim=0)
    found: Tensor = torch.linalg.solve(moments, products).T
    return found


def distance(method: FederatedCallback, rounds: int, seed: int) -> float:
    """Largest difference of a weight to the minimiser after some rounds of ten full-batch steps.

    Args:
        method: Method that the participants follow.
        rounds: Number of rounds.
        seed: Of the data.
    """
    sets = drawn(seed)
    made = {}
    for name in NAMES:
        backbone = nn.Linear(4, 1, bias=False)
        nn.init.zeros_(backbone.weight)
        optimizer = functools.partial(torch.optim.SGD, lr=RATE)
        made[name] = Participant(
            backbone, shared=("*",), task="regression", optimizer=optimizer, local_epochs=LOCAL_STEPS
        )
    data = FederatedDataModule({name: Examples(*one) for name, one in sets.items()}, batch_size=1000)
    federation = Federation(made)
    fit(federation, data, rounds, method, double=True)
    return float((federation["a"].state_dict()["backbone.weight"] - minimiser(sets)).abs().max())


def made_again(seed: int, rounds: int | None = None) -> list[Figure]:
    """Distances of SCAFFOLD, FedDyn and FedAvg to the minimiser.

    Args:
        seed: Of the data.
        rounds: Number of rounds; None for 150.
    """
    count = rounds or 150
    what = f"distance to the minimiser, {count} rounds"
    return [
        Figure("SCAFFOLD, option II", what, distance(Scaffold(), count, seed), 0, 1e-12, "0 (Theorem III)"),
        Figure("FedDyn, alpha 1", what, distance(FedDyn(1.0), count, seed), 0, 1e-12, "0 (Theorem 1)"),
        Figure(
            "FedAvg",
            what,
            distance(BackboneAveraging(weighting="uniform", max_share=1.0), count, seed),
            1e-2,
            float("inf"),
            "above .01: it drifts",
        ),
    ]
