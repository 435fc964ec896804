"""Chains of linear layers, batched by matrix products ``(N, B, in) x (N, in, out)``, forward and backward by hand.

By hand because autograd would write every gradient to fresh memory and read it again for the step: with wide layers
that is most of the time. Here the descent is folded into the product that makes the gradient, ``W <- W - rate dz^T h``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from hetfed_lightning.data.blocks import StackedBatch
from hetfed_lightning.distillation.outputs import at_least_float32
from hetfed_lightning.fleets.chain import Activation, Linear
from hetfed_lightning.fleets.engine import Engine, ExampleLosses
from hetfed_lightning.fleets.network import Network, mean_loss
from hetfed_lightning.tasks import MulticlassTask


@dataclass(frozen=True)
class _Passed:
    """Tensors that the backward pass of a layer needs: its inputs, and the input or output of each activation."""

    inputs: Tensor
    kept: Sequence[tuple[Activation, Tensor]]


class BatchedEngine(Engine):
    """Engine for chains of linear layers: one batched matrix product per layer for all participants.

    Args:
        network: Network of the participants' architecture.
        task: Loss of every participant.
        layers: The network's layers, as :func:`~hetfed_lightning.fleets.chain.chain_of` found them.
    """

    name = "batched"
    folds_descent = True

    def __init__(self, network: Network, task: ExampleLosses, layers: Sequence[Linear]) -> None:
        super().__init__(network, task)
        self.layers = layers
        self._closed_form = type(task) is MulticlassTask and task.class_weights is None and not task.label_smoothing

    def _with(self, task: ExampleLosses) -> Self:
        return type(self)(self.network, task, self.layers)

    @torch.no_grad()
    def outputs(self, parameters: Mapping[str, Tensor], inputs: Any, *, common: bool = False) -> Tensor:
        """Outputs of every participant, shape ``(K, B, C)``, without gradients.

        Args:
            parameters: Shape ``(K, *shape)`` each, by key.
            inputs: Shape ``(K, B, ...)``; ``(B, ...)`` if ``common``.
            common: True if all participants see the same inputs.
        """
        count = len(next(iter(parameters.values())))
        return self._forward(parameters, inputs.expand(count, *inputs.shape) if common else inputs)[0]

    @torch.no_grad()
    def gradients(
        self,
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        batch: StackedBatch,
        *,
        add: bool = False,
    ) -> Tensor:
        """Losses of every participant, shape ``(K,)``; writes their gradients.

        Args:
            parameters: Shape ``(K, *shape)`` each, by key.
            gradients: Tensors of the same keys and shapes; overwritten, or added to.
            batch: One batch of each participant.
            add: True to add to the values in ``gradients``.
        """
        losses, passed, delta = self._losses(parameters, batch)
        for layer, own in zip(reversed(self.layers), reversed(passed), strict=True):
            delta = self._through_activations(delta, own)
            weight, bias = gradients[layer.weight], None if layer.bias is None else gradients[layer.bias]
            if _is_wide(own.inputs, delta):
                torch.baddbmm(weight, delta.mT, own.inputs, beta=int(add), out=weight)
            else:
                _put(weight, _product(delta, own.inputs), add=add)
            if bias is not None:
                _put(bias, delta.sum(1), add=add)
            if layer is not self.layers[0]:
                delta = torch.bmm(delta, parameters[layer.weight])
        return losses

    @torch.no_grad()
    def descend(self, parameters: Mapping[str, Tensor], rates: Tensor, batch: StackedBatch) -> Tensor:
        """Losses before the step, shape ``(K,)``; steps the parameters along gradients that are never written down.

        Args:
            parameters: Shape ``(K, *shape)`` each, by key; changed in place.
            rates: Learning rates, shape ``(K,)``.
            batch: One batch of each participant.
        """
        losses, passed, delta = self._losses(parameters, batch)
        delta = delta * rates[:, None, None]  # Scaled once here, where it is small: all gradients are linear in it.
        for layer, own in zip(reversed(self.layers), reversed(passed), strict=True):
            delta = self._through_activations(delta, own)
            weight = parameters[layer.weight]
            below = torch.bmm(delta, weight) if layer is not self.layers[0] else delta
            if _is_wide(own.inputs, delta):
                torch.baddbmm(weight, delta.mT, own.inputs, alpha=-1, out=weight)
            else:
                weight.sub_(_product(delta, own.inputs))
            if layer.bias is not None:
                parameters[layer.bias].sub_(delta.sum(1))
            delta = below
        return losses

    def _losses(self, parameters: Mapping[str, Tensor], batch: StackedBatch) -> tuple[Tensor, list[_Passed], Tensor]:
        """Losses ``(K,)``, tensors for the backward pass by layer, and the gradient ``(K, B, C)`` at the outputs."""
        outputs, passed = self._forward(parameters, batch.inputs)
        if self._closed_form:
            losses, delta = _cross_entropies(outputs, batch.targets, batch.mask)
            return losses, passed, delta
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            losses, weights = self.task.example_losses(leaf.flatten(0, 1), batch.targets.flatten(0, 1))
            shape = outputs.shape[:2]
            mean = mean_loss(losses.view(shape), weights.view(shape), batch.mask)
            (delta,) = torch.autograd.grad(mean.sum(), leaf)
        return mean.detach(), passed, delta

    def _forward(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> tuple[Tensor, list[_Passed]]:
        x = inputs.flatten(2)
        passed = []
        for layer in self.layers:
            weight = parameters[layer.weight].mT
            out = (
                torch.bmm(x, weight)
                if layer.bias is None
                else torch.baddbmm(parameters[layer.bias].unsqueeze(1), x, weight)
            )
            kept = []
            for activation in layer.activations:
                before, out = out, activation.function(out)
                kept.append((activation, out if activation.keeps_output else before))
            passed.append(_Passed(x, kept))
            x = out
        return x, passed

    @staticmethod
    def _through_activations(delta: Tensor, passed: _Passed) -> Tensor:
        for activation, kept in reversed(passed.kept):
            delta = activation.backward(delta, kept)
        return delta


WIDE = 2**14
"""Number of weights of a layer from which adding to a product is quicker than a product followed by a sum."""


def _is_wide(inputs: Tensor, delta: Tensor) -> bool:
    return inputs.shape[2] * delta.shape[2] > WIDE


def _put(place: Tensor, values: Tensor, *, add: bool) -> None:
    if add:
        place.add_(values)
    else:
        place.copy_(values)


def _product(delta: Tensor, inputs: Tensor) -> Tensor:
    """``delta^T inputs`` of all participants, shape ``(K, out, in)``, with the longer side along the columns.

    For 100 products of 64 x 32 with 32 x 10 that takes a quarter of the time.
    """
    if delta.shape[2] > inputs.shape[2]:
        return torch.bmm(inputs.mT, delta).mT
    return torch.bmm(delta.mT, inputs)


def _cross_entropies(outputs: Tensor, targets: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean cross-entropies, shape ``(K,)``, and their gradient ``(K, B, C)``: softmax minus one at the class, over B.

    A third of the time that autograd takes for the same. In float32 at least, as the task computes it.
    """
    classes = targets.unsqueeze(-1)
    logarithms = torch.log_softmax(at_least_float32(outputs), -1)
    losses = -logarithms.gather(-1, classes).squeeze(-1)
    delta = logarithms.exp_()
    delta.scatter_add_(-1, classes, delta.new_full((1,), -1.0).expand(classes.shape))
    if mask is None:
        delta.div_(outputs.shape[1])
    else:
        delta = torch.where(mask[:, :, None], delta, delta.new_zeros(())).div_(mask.sum(1)[:, None, None])
    return mean_loss(losses, torch.ones_like(losses), mask), delta.to(outputs.dtype)
