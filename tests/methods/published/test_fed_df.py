"""FedDF: averages by architecture and their distillation, by hand and by laws."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed_lightning import FederatedDataModule, Federation, Participant
from hetfed_lightning.data import Examples
from hetfed_lightning.methods.published.fed_df import CosineAdam, FedDF
from tests.federations import equal, examples, fit, sgd, state_of, tiny_data, tiny_participant
from tests.methods.published.by_hand import (
    MOMENTUM,
    RATE,
    Cohort,
    State,
    close,
    forward,
    mean,
    tensors,
)

PUBLIC, _ = tensors(examples(10, seed=300))
WIDTHS = {"a": 5, "b": 5, "c": 4, "d": 4}
STEPS, LR = 6, 0.01


def federation(participation: float = 1.0, **settings: Any) -> Federation:
    optimizer = sgd(RATE, momentum=MOMENTUM)
    made = {
        name: tiny_participant(hidden=width, seed=place, shared=("*",), optimizer=optimizer, local_epochs=2)
        for place, (name, width) in enumerate(WIDTHS.items())
    }
    return Federation(made, participation=participation, **settings)


def distilled(weights: State, teacher: Tensor) -> State:
    """Adam by hand at a learning rate that falls to 0, on all public examples."""
    first = {key: torch.zeros_like(one) for key, one in weights.items()}
    second = {key: torch.zeros_like(one) for key, one in weights.items()}
    p = teacher.softmax(1)
    for step in range(STEPS):
        leaves = {key: one.clone().requires_grad_() for key, one in weights.items()}
        q = forward(leaves, PUBLIC)[1].softmax(1)
        loss = (p * (p / q).log()).sum(1).mean()
        rate = LR * (1 + math.cos(math.pi * step / STEPS)) / 2
        for key, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            first[key] = 0.9 * first[key] + 0.1 * gradient
            second[key] = 0.999 * second[key] + 0.001 * gradient**2
            one, other = first[key] / (1 - 0.9 ** (step + 1)), second[key] / (1 - 0.999 ** (step + 1))
            weights = weights | {key: weights[key] - rate * one / (other.sqrt() + 1e-8)}
    return weights


@pytest.mark.parametrize("participation", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
def test_equals_a_loop_by_hand(participation: float) -> None:
    found, cohort = federation(participation, engine="sequential"), Cohort()
    data = FederatedDataModule(
        {name: examples(12 + 4 * place, seed=place) for place, name in enumerate(WIDTHS)},
        public=Examples(examples(10, seed=300).inputs), batch_size=100,
    )  # fmt: skip
    fit(found, data, 4, FedDF(STEPS, LR, batch_size=100), cohort, precision="64-true")

    own = {name: {key: one.double() for key, one in state_of(federation()[name]).items()} for name in WIDTHS}
    velocity: dict[str, State] = {name: {} for name in WIDTHS}
    average = {width: dict(own["a" if width == 5 else "c"]) for width in (5, 4)}
    teacher: Tensor | None = None
    for active in cohort.rounds:
        for name in active:
            weights = dict(average[WIDTHS[name]])
            if teacher is not None:
                weights = distilled(weights, teacher)
            place = list(WIDTHS).index(name)
            inputs, target = tensors(examples(12 + 4 * place, seed=place))
            for _ in range(2):
                leaves = {key: one.clone().requires_grad_() for key, one in weights.items()}
                loss = F.cross_entropy(forward(leaves, inputs)[1], target)
                for key, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
                    speed = velocity[name]
                    speed[key] = MOMENTUM * speed[key] + gradient if key in speed else gradient
                    weights[key] = weights[key] - RATE * speed[key]
            own[name] = weights
        teacher = torch.stack([forward(own[name], PUBLIC)[1] for name in active]).mean(0)
        for width in (5, 4):
            members = [name for name in active if WIDTHS[name] == width]
            if members:
                counts = [12 + 4 * list(WIDTHS).index(name) for name in members]
                average[width] = mean([own[name] for name in members], counts)
    assert teacher is not None
    for name, width in WIDTHS.items():
        close(found[name], distilled(average[width], teacher))


def test_students_of_an_architecture_are_one_whatever_the_batches() -> None:
    made = federation(0.7)
    data = FederatedDataModule(
        {name: examples(12 + 4 * place, seed=place) for place, name in enumerate(WIDTHS)},
        public=Examples(examples(10, seed=300).inputs), batch_size=5,
    )  # fmt: skip
    fit(made, data, 3, FedDF(7, 0.01, batch_size=4))
    assert equal(state_of(made["a"]), state_of(made["b"]))
    assert equal(state_of(made["c"]), state_of(made["d"]))


def test_linear_networks_of_equal_data_are_averaged_and_taught_nothing() -> None:
    # The mean of their logits is the logits of their mean, so that the divergence and its gradient are 0.
    def linear(seed: int) -> Participant:
        torch.manual_seed(seed)
        return Participant(nn.Linear(4, 5), nn.Linear(5, 3), shared=("head",), optimizer=sgd())

    made = Federation({name: linear(seed) for seed, name in enumerate("ab")})
    for one in made.members().values():
        one.backbone.load_state_dict(made["a"].backbone.state_dict())
        one.backbone.requires_grad_(requires_grad=False)
    data = FederatedDataModule(
        {name: examples(12, seed=seed) for seed, name in enumerate("ab")},
        public=Examples(examples(10, seed=300).inputs), batch_size=100,
    )  # fmt: skip
    began = state_of(linear(0))
    fit(made, data, 1, FedDF(1, 0.1), precision="64-true")
    heads = []
    for seed in range(2):
        inputs, target = tensors(examples(12, seed=seed))
        features = inputs @ began["backbone.weight"].double().T + began["backbone.bias"].double()
        weight, bias = (began[f"head.{key}"].double().requires_grad_() for key in ("weight", "bias"))
        slopes = torch.autograd.grad(F.cross_entropy(features @ weight.T + bias, target), (weight, bias))
        heads.append([one.detach() - 0.1 * slope for one, slope in zip((weight, bias), slopes, strict=True)])
    for key, one, other in zip(("weight", "bias"), *heads, strict=True):
        found = made["b"].state_dict()[f"head.{key}"]
        # Adam divides a gradient of rounding by 1e-8, and further steps would make more of it.
        assert (found - (one + other) / 2).abs().max() < 1e-8


def test_the_learning_rate_falls_along_a_cosine() -> None:
    weight = torch.zeros(1, requires_grad=True)
    optimizer = CosineAdam([weight], lr=0.5, steps=4)
    places = [0.0]
    for _ in range(5):
        weight.grad = torch.ones(1)
        optimizer.step()
        places.append(float(weight.detach()))
    moved = [one - other for one, other in pairwise(places)]
    # Adam's step on a constant gradient is its learning rate.
    expected = [0.5, 0.25 * (1 + math.sqrt(0.5)), 0.25, 0.25 * (1 - math.sqrt(0.5)), 0.0]
    assert moved == pytest.approx(expected, abs=1e-6)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="FedDF needs a public set"):
        fit(federation(), tiny_data("abcd", public=None), 1, FedDF())
    apart = Federation({name: tiny_participant(classes=3 + place) for place, name in enumerate("ab")})
    with pytest.raises(ValueError, match=r"'a' has 3, 'b' has 4"):
        fit(apart, tiny_data("ab"), 1, FedDF())
    nothing = Federation({name: tiny_participant(shared=()) for name in "ab"})
    with pytest.raises(ValueError, match=r"'a': FedDF averages shared weights, and it shares none"):
        fit(nothing, tiny_data("ab"), 1, FedDF())
    for settings, message in (({"steps": 0}, "steps: expected"), ({"lr": 0.0}, "lr: expected")):
        with pytest.raises(ValueError, match=message):
            FedDF(**settings)
