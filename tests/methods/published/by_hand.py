"""What loops by hand have in common: three unequal data sets in float64, networks, and one full-batch step of SGD."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed_lightning import FederatedCallback, FederatedDataModule, Federation, FederationView
from hetfed_lightning.data import Examples
from tests.federations import examples, fit, sgd, tiny_data, tiny_participant

RATE, MOMENTUM = 0.1, 0.9
COUNTS = {"a": 12, "b": 16, "c": 20}

State = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor, Tensor, Mapping[str, Tensor]], Tensor]
"""Function of features, outputs, targets and weights."""


def tensors(found: Examples) -> tuple[Tensor, Tensor]:
    """Inputs in float64, and targets."""
    assert isinstance(found.inputs, Tensor)
    assert found.targets is not None
    return found.inputs.double(), found.targets


def own_data(names: str = "abc") -> dict[str, tuple[Tensor, Tensor]]:
    """The training sets of ``tiny_data``."""
    return {name: tensors(examples(12 + 4 * place, seed=place)) for place, name in enumerate(names)}


def cross_entropy(features: Tensor, outputs: Tensor, target: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    del features, weights
    return F.cross_entropy(outputs, target)


def forward(weights: Mapping[str, Tensor], inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Features and outputs of a tiny participant with these weights."""
    features = (inputs @ weights["backbone.0.weight"].T + weights["backbone.0.bias"]).clamp(min=0)
    return features, features @ weights["head.weight"].T + weights["head.bias"]


class Hand:
    """A tiny participant by hand: weights, momenta, and full-batch steps.

    Args:
        place: Its place, which names its initial weights and its data.
        rate: Learning rate.
        momentum: Momentum.
    """

    def __init__(self, place: int, rate: float = RATE, momentum: float = MOMENTUM) -> None:
        made = tiny_participant(seed=place).double().state_dict()
        self.weights: State = {key: one.clone() for key, one in made.items()}
        self.velocity: State = {}
        self.inputs, self.target = tensors(examples(12 + 4 * place, seed=place))
        self.rate, self.momentum = rate, momentum

    @property
    def count(self) -> int:
        return len(self.target)

    def step(self, loss: Loss = cross_entropy, trains: Sequence[str] = ()) -> None:
        """One step on all own examples; of some keys alone if any are named."""
        weights = {key: one.clone().requires_grad_() for key, one in self.weights.items()}
        features, outputs = forward(weights, self.inputs)
        value = loss(features, outputs, self.target, weights)
        keys = [key for key in weights if not trains or key in trains]
        for key, gradient in zip(keys, torch.autograd.grad(value, [weights[key] for key in keys]), strict=True):
            self.velocity[key] = self.momentum * self.velocity[key] + gradient if key in self.velocity else gradient
            self.weights[key] = self.weights[key] - self.rate * self.velocity[key]


def hands(names: str = "abc", **settings: float) -> dict[str, Hand]:
    """A participant by hand for each name."""
    return {name: Hand(place, **settings) for place, name in enumerate(names)}


def mean(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> State:
    """Weighted mean of states."""
    total = sum(weights)
    return {
        key: torch.stack([one[key] * (weight / total) for one, weight in zip(states, weights, strict=True)]).sum(0)
        for key in states[0]
    }


class Cohort(FederatedCallback):
    """Keeps who trained in each round."""

    def __init__(self) -> None:
        self.rounds: list[list[str]] = []

    def on_round_start(self, trainer: Any, federation: FederationView, round_index: int) -> None:
        del trainer
        self.rounds.append(list(federation.active_names(round_index)))


def federation(names: str = "abc", *, momentum: float = MOMENTUM, **settings: Any) -> Federation:
    """The same participants as :func:`hands`, in float64."""
    own = settings.pop("participant", {})
    optimizer = sgd(RATE, momentum=momentum)
    made = {name: tiny_participant(seed=place, **({"optimizer": optimizer} | own)) for place, name in enumerate(names)}
    return Federation(made, **settings)


def whole_batches(**settings: Any) -> FederatedDataModule:
    """Data of which every batch is a participant's whole training set."""
    return tiny_data(batch_size=100, evaluated=False, **settings)


def run(method: Any, rounds: int, *, data: FederatedDataModule | None = None, **settings: Any) -> tuple[Any, Any]:
    """A federation after some rounds with a method, and who trained in each."""
    made, cohort = federation(**({"engine": "sequential"} | settings)), Cohort()
    fit(made, data or whole_batches(), rounds, method, cohort, precision="64-true")
    return made, cohort.rounds


def close(found: nn.Module, expected: Mapping[str, Tensor]) -> None:
    """Equal but for rounding in float64, at all expected keys."""
    state = found.state_dict()
    for key, one in expected.items():
        assert (state[key] - one).abs().max() <= 1e-12 * max(1.0, float(one.abs().max())), key
