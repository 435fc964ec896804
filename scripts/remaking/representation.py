"""FedRep's linear problem: regressions that have two directions in common (Collins et al. 2021, section 6).

``d = 20`` inputs, ``k = 2`` directions, ``n = 100`` participants of ``m = 10`` examples, noise of .01. Losses are half
the squared error on fresh examples, of which the noise alone leaves 5.0e-5. Heads that are fitted to m examples add
``k/(m - k - 1)`` of that, and a representation that is fitted to all n m adds ``(d - k) k / (n m)``.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from hetfed_lightning import FederatedDataModule, Federation, Participant
from hetfed_lightning.data import Examples
from hetfed_lightning.methods.published.fed_rep import FedRep
from scripts.remaking.figures import Figure
from scripts.remaking.fitting import fit

INPUTS, DIRECTIONS, PARTICIPANTS, EXAMPLES, NOISE = 20, 2, 100, 10, 0.01
FLOOR = NOISE**2 / 2
EXPECTED = FLOOR * (
    1 + DIRECTIONS / (EXAMPLES - DIRECTIONS - 1) + (INPUTS - DIRECTIONS) * DIRECTIONS / (PARTICIPANTS * EXAMPLES)
)
RATE = 0.3


def drawn(seed: int) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """Training sets, inputs ``(m, d)`` and targets ``(m, 1)``, and true lines ``(d,)``, by participant."""
    generator = torch.Generator().manual_seed(seed)
    normal = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(normal(INPUTS, DIRECTIONS)).Q
    sets, lines = {}, {}
    for place in range(PARTICIPANTS):
        name = f"p{place:02d}"
        lines[name] = basis @ normal(DIRECTIONS)
        inputs = normal(EXAMPLES, INPUTS)
        sets[name] = (inputs, (inputs @ lines[name] + NOISE * normal(EXAMPLES))[:, None])
    return sets, lines


def loss_of(found: Tensor, line: Tensor) -> float:
    """Expected half squared error on fresh examples: the inputs are normal, of unit covariance."""
    return float((found - line).square().sum() / 2) + FLOOR


def made_again(seed: int, rounds: int | None = None) -> list[Figure]:
    """Mean loss of FedRep, and that of least squares alone against it.

    Args:
        seed: Of data and initial weights.
        rounds: Number of rounds; None for 60.
    """
    sets, lines = drawn(seed)
    torch.manual_seed(seed)
    made = {}
    for name in sets:
        backbone = nn.Linear(INPUTS, DIRECTIONS, bias=False)
        nn.init.orthogonal_(backbone.weight)
        head = nn.Linear(DIRECTIONS, 1, bias=False)
        made[name] = Participant(
            backbone, head, task="regression", optimizer=functools.partial(torch.optim.SGD, lr=RATE)
        )
    data = FederatedDataModule({name: Examples(*one) for name, one in sets.items()}, batch_size=EXAMPLES)
    federation = Federation(made, seed=seed)
    fit(federation, data, rounds or 60, FedRep(head_epochs=10, backbone_epochs=1), double=True)
    together, alone = 0.0, 0.0
    for name, (inputs, targets) in sets.items():
        state = federation[name].state_dict()
        own = state["head.weight"] @ state["backbone.weight"]
        together += loss_of(own[0], lines[name]) / PARTICIPANTS
        least = torch.linalg.lstsq(inputs, targets, driver="gelsd").solution[:, 0]
        alone += loss_of(least, lines[name]) / PARTICIPANTS
    what = f"loss on fresh examples, {rounds or 60} rounds"
    return [
        Figure("FedRep, linear", what, together, FLOOR, 1.15 * EXPECTED, f"{EXPECTED:.2e} + 15 %, degrees of freedom"),
        Figure("FedRep, linear", "local least squares over FedRep", alone / together, 50, float("inf"), "above 50"),
    ]
