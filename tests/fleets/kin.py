"""Four participants of one architecture and amounts of data of their own, trained by one engine or another."""

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from hetfed_lightning import BackboneAveraging, FederatedDataModule, Federation, Participant
from hetfed_lightning.data import Examples
from tests.federations import fit, state_of

NAMES = ("a", "b", "c", "d")
COUNTS = {"a": 13, "b": 20, "c": 7, "d": 20}
"""In batches of 5: rounds of 3, 4, 2 and 4 batches, the last of them of 3, 5, 2 and 5 examples."""

Optimizer = Callable[[Any], torch.optim.Optimizer]


def slow(value: int | str) -> Any:
    """A parameter of a battery that only `-m slow` runs."""
    return pytest.param(value, marks=pytest.mark.slow)


OPTIMIZERS: dict[str, Callable[[float], Optimizer]] = {
    "sgd": lambda lr: lambda p: torch.optim.SGD(p, lr=lr),
    "sgd with weight decay": lambda lr: lambda p: torch.optim.SGD(p, lr=lr, weight_decay=0.1),
    "momentum": lambda lr: lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "nesterov": lambda lr: lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda lr: lambda p: torch.optim.Adam(p, lr=lr / 10),
    "adam with weight decay": lambda lr: lambda p: torch.optim.Adam(p, lr=lr / 10, weight_decay=0.1, betas=(0.8, 0.9)),
    "adamw": lambda lr: lambda p: torch.optim.AdamW(p, lr=lr / 10, weight_decay=0.1),
}


def classes(dtype: torch.dtype, features: int = 6, public: int | None = None) -> FederatedDataModule:
    """A set of each, and ``public`` examples for all if there are to be any."""
    generator = torch.Generator().manual_seed(0)
    train = {}
    for name, count in COUNTS.items():
        inputs = torch.randn(count, features, generator=generator, dtype=dtype)
        train[name] = Examples(inputs, inputs[:, :3].argmax(1))
    known = None if public is None else Examples(torch.randn(public, features, generator=generator, dtype=dtype))
    return FederatedDataModule(train, public=known, batch_size=5)


def network() -> nn.ModuleDict:
    """Three layers, of which the second has no bias."""
    torch.default_generator.manual_seed(1)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7, bias=False), nn.Tanh())
    return nn.ModuleDict({"backbone": backbone, "head": nn.Linear(7, 3)})


def members(
    optimizer: Callable[[float], Optimizer], make: Callable[[], nn.ModuleDict] = network, **settings: Any
) -> dict[str, Participant]:
    """Everyone with a learning rate of its own."""
    made = {}
    for index, name in enumerate(NAMES):
        parts = make()
        made[name] = Participant(
            parts["backbone"], parts["head"], optimizer=optimizer(0.1 + 0.05 * index),
            **{key: value[name] if isinstance(value, dict) else value for key, value in settings.items()},
        )  # fmt: skip
    return made


def trained(
    engine: Any,
    data: FederatedDataModule,
    participants: dict[str, Participant],
    *callbacks: L.Callback,
    **settings: Any,
) -> Federation:
    """Two rounds with averaging, or ``rounds`` of them with other callbacks."""
    federation = Federation(participants, engine=engine)
    fit(federation, data, settings.pop("rounds", 2), *(callbacks or [BackboneAveraging()]), **settings)
    if engine != "sequential":
        assert set(federation.fleets.chosen.values()) == {engine}
    return federation


def furthest(one: Federation, other: Federation) -> float:
    """Largest distance of a tensor from its counterpart, as a share of the latter."""
    mine, theirs = state_of(one), state_of(other)

    def share(key: str) -> Tensor:
        distance: Tensor = torch.linalg.vector_norm(mine[key] - theirs[key]) / torch.linalg.vector_norm(theirs[key])
        return distance

    return max(float(share(key)) for key in mine)
