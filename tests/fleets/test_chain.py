"""Chains of linear layers are recognised by what they compute; whatever else a network does makes it none."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hetfed_lightning import Participant
from hetfed_lightning.fleets.chain import Linear, chain_of
from hetfed_lightning.fleets.network import Network


class Written(nn.Module):
    """A forward pass written as a function of two layers, ``one`` and ``two``, and the inputs."""

    def __init__(self, function: Callable[[nn.Linear, nn.Linear, Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.one, self.two, inputs)


def layers_of(backbone: nn.Module, *, shape: tuple[int, ...] = (6, 4)) -> list[Linear] | None:
    network = Network(Participant(backbone, nn.Linear(4, 3)))
    trainable = {key: one for key, one in network.named_parameters() if one.requires_grad}
    return chain_of(network, trainable, torch.zeros(shape))


def keys(layers: list[Linear] | None) -> list[tuple[str, str | None, int]]:
    return [(one.weight, one.bias, len(one.activations)) for one in layers or ()]


HEAD = ("head.weight", "head.bias", 0)


@pytest.mark.parametrize("grad", [True, False])
def test_layers_are_in_order_with_their_activations(grad: bool) -> None:
    backbone = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 5, bias=False), nn.ReLU(), nn.LeakyReLU(0.3), nn.Dropout(), nn.Linear(5, 4)
    )
    with torch.set_grad_enabled(grad):
        layers = layers_of(backbone, shape=(6, 2, 2))
    assert keys(layers) == [("backbone.1.weight", None, 2), ("backbone.5.weight", "backbone.5.bias", 0), HEAD]
    assert layers is not None
    assert layers[0].activations[1].settings == ()
    steep = layers[0].activations[1].function(torch.tensor([-1.0, 2.0]))
    assert torch.equal(steep, torch.tensor([-0.3, 2.0]))


@pytest.mark.parametrize(
    "function",
    [
        lambda one, two, x: two(torch.tanh(one(x))),
        lambda one, two, x: two((x @ one.weight.t() + one.bias).clone()) if x.dim() > 2 else two(one(x.detach())),
        lambda one, two, x: two(one(x.reshape(len(x), -1).float()).contiguous()),
    ],
    ids=["called", "branches on a shape", "moved without effect"],
)
def test_it_does_not_matter_how_the_code_is_written(function: Any) -> None:
    assert [weight for weight, _, _ in keys(layers_of(Written(function)))] == [
        "backbone.one.weight",
        "backbone.two.weight",
        "head.weight",
    ]


def frozen() -> nn.Module:
    module = Written(lambda one, two, x: two(one(x)))
    module.two.requires_grad_(False)
    return module


@pytest.mark.parametrize(
    "backbone",
    [
        Written(lambda one, two, x: two(one(x)) + x),
        Written(lambda one, two, x: two(one(one(x)))),
        Written(lambda one, two, x: one(x)),
        Written(lambda one, two, x: (two(x), one(x))[1]),
        Written(lambda one, two, x: two(one(x)) * 2),
        Written(lambda one, two, x: two(one(x)) * x.sum().item()),
        Written(lambda one, two, x: two(one(x)) if x.sum() > 0 else one(two(x))),
        Written(lambda one, two, x: two(one(torch.zeros(len(x), 4)))),
        Written(lambda one, two, x: two(one(torch.from_numpy(x.numpy())))),
        Written(lambda one, two, x: two(one(x)).chunk(1, 1)[0]),
        Written(lambda one, two, x: two(nn.functional.linear(x, one.weight, torch.zeros(4)))),
        Written(lambda one, two, x: two(torch.relu_(one(x)))),
        Written(lambda one, two, x: two(torch.softmax(one(x), 1))),
        frozen(),
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
        nn.ReLU(),
    ],
    ids=[
        "residual", "a layer twice", "a layer unused", "a result unused", "scaled", "a number", "a branch on values",
        "inputs unused", "inputs by NumPy", "a tuple", "a foreign bias", "in place", "softmax", "frozen", "statistics",
        "activation first",
    ],
)  # fmt: skip
def test_whatever_else_it_does_makes_it_none(backbone: nn.Module) -> None:
    assert layers_of(backbone) is None


def test_images_and_numbers_of_classes_are_none() -> None:
    assert layers_of(nn.Linear(4, 4), shape=(6, 2, 4)) is None
    network = Network(Participant(nn.Linear(4, 4), nn.Linear(4, 3)))
    assert chain_of(network, dict(network.named_parameters()), torch.zeros(6, 4, dtype=torch.long)) is None


def test_a_network_that_fails_is_none() -> None:
    assert layers_of(nn.Linear(5, 4)) is None
