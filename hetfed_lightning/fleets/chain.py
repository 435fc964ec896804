"""Recognition of networks that are chains of linear layers and activations, however their code is written.

The network is run once under ``make_fx``, which records its operations. The record is a chain if each operation takes
the result of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from hetfed_lightning.fleets.network import Network

aten = torch.ops.aten

EXAMPLES = 3
"""Batch size B of the recorded run."""


@dataclass(frozen=True)
class Activation:
    """An element-wise function and the product of a gradient with its derivative.

    Attributes:
        function: Function of the inputs, of any shape, and of the settings.
        backward: Function of a gradient, of the kept input or output (both of the same shape) and of the settings.
        keeps_output: True if the derivative is a function of the output, False if of the input.
        settings: Further arguments of both functions.
    """

    function: Callable[..., Tensor]
    backward: Callable[..., Tensor]
    keeps_output: bool
    settings: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Linear:
    """A linear layer and the activations that follow it.

    Attributes:
        weight: Key of its weight, shape ``(out, in)``.
        bias: Key of its bias, shape ``(out,)``; None without one.
        activations: Activations, in order.
    """

    weight: str
    bias: str | None
    activations: list[Activation] = field(default_factory=list)


_RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.flatten.using_ints}
_NOTHING = {aten.detach.default, aten.alias.default, aten.clone.default}


def _relu(node: fx.Node) -> Activation:
    del node
    return Activation(torch.relu, lambda gradient, out: aten.threshold_backward(gradient, out, 0), True)


def _gelu(node: fx.Node) -> Activation:
    how = node.kwargs.get("approximate", "none")
    return Activation(
        lambda x: aten.gelu(x, approximate=how),
        lambda gradient, x: aten.gelu_backward(gradient, x, approximate=how),
        False,
    )


def _leaky_relu(node: fx.Node) -> Activation:
    slope = node.args[1] if len(node.args) > 1 else 0.01
    return Activation(
        lambda x: aten.leaky_relu(x, slope),
        lambda gradient, x: aten.leaky_relu_backward(gradient, x, slope, False),
        False,
    )


_ACTIVATIONS: Mapping[Any, Callable[[fx.Node], Activation]] = {
    aten.relu.default: _relu,
    aten.tanh.default: lambda _: Activation(torch.tanh, aten.tanh_backward, True),
    aten.sigmoid.default: lambda _: Activation(torch.sigmoid, aten.sigmoid_backward, True),
    aten.silu.default: lambda _: Activation(aten.silu, aten.silu_backward, False),
    aten.gelu.default: _gelu,
    aten.leaky_relu.default: _leaky_relu,
}


def chain_of(network: Network, parameters: Mapping[str, Tensor], example: Any) -> list[Linear] | None:
    """Linear layers of a network, in order; None if the network is something else.

    Args:
        network: Network whose forward pass is recorded.
        parameters: One participant's trainable parameters, by key, of the layer's shape each.
        example: Inputs of a batch, shape ``(B, ...)``; the first one is used.
    """
    if not isinstance(example, Tensor) or not example.is_floating_point():
        return None
    keys = list(parameters)
    inputs = example.detach()[:1].expand(EXAMPLES, *example.shape[1:]).clone()

    def forward(values: list[Tensor], x: Tensor) -> Tensor:
        return network.outputs_with(dict(zip(keys, values, strict=True)), x)

    try:
        graph = make_fx(forward)([parameters[key].detach() for key in keys], inputs)
    except Exception:  # noqa: BLE001 - a network that cannot be recorded is no chain; it trains by another engine
        return None
    layers = _Reader(list(graph.graph.nodes), keys).layers()
    used = [key for layer in layers or () for key in (layer.weight, layer.bias) if key is not None]
    # A parameter used twice has two gradients, one that is not used has none.
    return layers if sorted(used) == sorted(keys) else None


class _Reader:
    """Reader of recorded operations, for as long as they form a chain."""

    def __init__(self, nodes: Sequence[fx.Node], keys: Sequence[str]) -> None:
        self._nodes = nodes
        placeholders = [node for node in nodes if node.op == "placeholder"]
        self._owner: dict[Any, str | None] = dict(zip(placeholders, [*keys, None], strict=True))
        self._transposed: dict[Any, str] = {}
        self._current: Any = placeholders[-1]
        self._layers: list[Linear] = []

    def layers(self) -> list[Linear] | None:
        """The layers, or None where the chain breaks."""
        for node in self._nodes:
            if node.op == "output":
                given = node.args[0]
                outputs = list(given) if isinstance(given, (list, tuple)) else [given]
                return self._layers if self._layers and outputs == [self._current] else None
            if node.op == "placeholder":
                continue
            if node.target is aten.t.default and (key := self._owner.get(node.args[0])) is not None:
                self._transposed[node] = key
            elif self._continues(node):
                self._current = node
            else:
                return None
        return None

    def _continues(self, node: fx.Node) -> bool:
        """True if an operation takes the last one's result and is one that a chain may have."""
        arguments: list[Any] = list(node.args)
        if node.target is aten.addmm.default and len(arguments) == 3 and not node.kwargs:
            bias = self._owner.get(arguments[0])
            return bias is not None and self._adds_layer(arguments[1], arguments[2], bias)
        if node.target is aten.mm.default:
            return self._adds_layer(arguments[0], arguments[1], None)
        if not arguments or arguments[0] is not self._current:
            return False
        if node.target in _RESHAPES:
            shape = tuple(node.meta["val"].shape)
            return len(shape) == 2 and shape[0] == EXAMPLES
        if node.target in _ACTIVATIONS and self._layers:
            self._layers[-1].activations.append(_ACTIVATIONS[node.target](node))
            return True
        return node.target in _NOTHING

    def _adds_layer(self, inputs: Any, weight: Any, bias: str | None) -> bool:
        if inputs is not self._current or weight not in self._transposed:
            return False
        self._layers.append(Linear(self._transposed[weight], bias))
        return True
