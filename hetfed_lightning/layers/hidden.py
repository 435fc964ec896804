"""Hidden layers of a multilayer perceptron, as a backbone or a head stacks them."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def hidden_layers(in_features: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear layers, each followed by ReLU and dropout.

    Dropout stands there even at 0, so that the keys of the linear layers do not depend on it.

    Args:
        in_features: Numbers per sample.
        hidden: Widths of the layers in order; empty for none.
        dropout: Share of activations set to zero in training, in [0, 1).
    """
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise((in_features, *hidden)):
        layers += [nn.Linear(width_in, width_out), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)
