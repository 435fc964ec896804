"""Recognition of networks that are chains of linear layers and activations, however their code is written.

The network is run once, and the operations that reach the backend are recorded. The record is a chain if each operation
takes the result of the one before. ``make_fx`` would record the same in forty times the time, which every fit waits
for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

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


@dataclass(frozen=True, eq=False)
class _Value:
    """A tensor of the recorded run; the tensor itself is let go.

    Attributes:
        shape: Its shape.
        key: Key of the parameter that it is; None for any other tensor.
    """

    shape: tuple[int, ...]
    key: str | None = None


@dataclass(frozen=True)
class _Operation:
    """An operation of the recorded run.

    Attributes:
        target: The operation.
        arguments: Its positional arguments, with a value for each tensor that the run began with or made, and None for
            any other tensor.
        settings: Its keyword arguments.
        result: Its result; None if that is not one tensor.
    """

    target: Any
    arguments: list[Any]
    settings: Mapping[str, Any]
    result: _Value | None


_RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.flatten.using_ints}
_NOTHING = {aten.detach.default, aten.alias.default, aten.clone.default}


def _relu(operation: _Operation) -> Activation:
    del operation
    return Activation(torch.relu, lambda gradient, out: aten.threshold_backward(gradient, out, 0), True)


def _gelu(operation: _Operation) -> Activation:
    how = operation.settings.get("approximate", "none")
    return Activation(
        lambda x: aten.gelu(x, approximate=how),
        lambda gradient, x: aten.gelu_backward(gradient, x, approximate=how),
        False,
    )


def _leaky_relu(operation: _Operation) -> Activation:
    slope = operation.arguments[1] if len(operation.arguments) > 1 else 0.01
    return Activation(
        lambda x: aten.leaky_relu(x, slope),
        lambda gradient, x: aten.leaky_relu_backward(gradient, x, slope, False),
        False,
    )


_ACTIVATIONS: Mapping[Any, Callable[[_Operation], Activation]] = {
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
    inputs = example.detach()[:1].expand(EXAMPLES, *example.shape[1:]).clone()
    own = {key: parameter.detach() for key, parameter in parameters.items()}
    recording = _Recording()
    for key, parameter in own.items():
        recording.begin_with(parameter, key)
    first = recording.begin_with(inputs)
    try:
        with recording:
            outputs = network.outputs_with(own, inputs)
        last = recording.value_of(outputs)
    except Exception:  # noqa: BLE001 - a network that cannot be recorded is no chain; it trains by another engine
        return None
    layers = _Reader(first).layers(recording.operations, last)
    used = [key for layer in layers or () for key in (layer.weight, layer.bias) if key is not None]
    # A parameter used twice has two gradients, one that is not used has none.
    return layers if sorted(used) == sorted(own) else None


class _Recording(TorchDispatchMode):
    """Operations that run while it is entered, in order; tensors are known by identity and held weakly."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[_Operation] = []
        self._values = WeakTensorKeyDictionary()

    def begin_with(self, tensor: Tensor, key: str | None = None) -> _Value:
        """Value of a tensor that is there before the run, named by its key if it is a parameter."""
        value = self._values[tensor] = _Value(tuple(tensor.shape), key)
        return value

    def value_of(self, one: Any) -> _Value | None:
        """Value of a tensor; None if the run neither began with it nor made it."""
        found: _Value | None = self._values.get(one)
        return found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        settings = kwargs or {}
        result = func(*args, **settings)
        arguments = [self.value_of(one) if isinstance(one, Tensor) else one for one in args]
        made = self.begin_with(result) if isinstance(result, Tensor) else None
        self.operations.append(_Operation(func, arguments, settings, made))
        return result


class _Reader:
    """Reader of recorded operations, for as long as they form a chain.

    Args:
        first: Inputs of the network.
    """

    def __init__(self, first: _Value) -> None:
        self._current = first
        self._transposed: dict[_Value, str] = {}
        self._layers: list[Linear] = []

    def layers(self, operations: Sequence[_Operation], last: _Value | None) -> list[Linear] | None:
        """The layers, or None where the chain breaks.

        Args:
            operations: Operations of the run, in order.
            last: Outputs of the network; None if no operation made them.
        """
        for operation in operations:
            if operation.result is None:
                return None
            if operation.target is aten.t.default and (key := _key(operation.arguments[0])) is not None:
                self._transposed[operation.result] = key
            elif self._continues(operation):
                self._current = operation.result
            else:
                return None
        return self._layers if self._layers and last is self._current else None

    def _continues(self, operation: _Operation) -> bool:
        """True if an operation takes the last one's result and is one that a chain may have."""
        arguments = operation.arguments
        if operation.target is aten.addmm.default and len(arguments) == 3 and not operation.settings:
            bias = _key(arguments[0])
            return bias is not None and self._adds_layer(arguments[1], arguments[2], bias)
        if operation.target is aten.mm.default:
            return self._adds_layer(arguments[0], arguments[1], None)
        if not arguments or arguments[0] is not self._current:
            return False
        if operation.target in _RESHAPES and operation.result is not None:
            shape = operation.result.shape
            return len(shape) == 2 and shape[0] == EXAMPLES
        if operation.target in _ACTIVATIONS and self._layers:
            self._layers[-1].activations.append(_ACTIVATIONS[operation.target](operation))
            return True
        return operation.target in _NOTHING

    def _adds_layer(self, inputs: Any, weight: Any, bias: str | None) -> bool:
        if inputs is not self._current or weight not in self._transposed:
            return False
        self._layers.append(Linear(self._transposed[weight], bias))
        return True


def _key(argument: Any) -> str | None:
    """Key of the parameter that an argument is; None if it is none."""
    return argument.key if isinstance(argument, _Value) else None
