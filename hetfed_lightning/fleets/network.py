"""The network of a fleet's members and their modules of methods, in one module called with others' parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hetfed_lightning.participants.participant import METHOD_MODULES

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant


T = TypeVar("T")


class Network(nn.Module):
    """Copy of a participant's backbone, head and modules of methods, in their modes, under the participant's keys.

    Args:
        participant: Participant whose forward pass is the head applied to the backbone's features.
    """

    def __init__(self, participant: Participant) -> None:
        super().__init__()
        self.backbone = deepcopy(participant.backbone)
        self.head = deepcopy(participant.head)
        if METHOD_MODULES in (roots := roots_of(participant)):
            self.add_module(METHOD_MODULES, deepcopy(roots[METHOD_MODULES]))
        for module in self.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()  # It drops nothing, but asks for random numbers all the same.

    def forward(self, function: Callable[[], T]) -> T:
        """Result of a function that computes with this network, under the parameters of the moment."""
        return function()

    def under(self, parameters: Mapping[str, Tensor], function: Callable[[], T]) -> T:
        """Result of a function that computes with this network, under other parameters than its own.

        Args:
            parameters: Tensors of the parameters' shapes (and of buffers'), by key.
            function: Function without arguments.
        """
        found: T = functional_call(self, dict(parameters), (function,))
        return found

    def features_and_outputs(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Features, shape ``(B, D)``, and outputs, shape ``(B, C)``.

        Args:
            inputs: Inputs of the backbone, shape ``(B, ...)``.
        """
        features = self.backbone(inputs)
        return features, self.head(features)

    def outputs_with(self, parameters: Mapping[str, Tensor], inputs: Any) -> Tensor:
        """Outputs under other parameters (and buffers) than the network's own, shape ``(B, C)``.

        Args:
            parameters: Tensors of the parameters' shapes, by key.
            inputs: Inputs of the backbone, shape ``(B, ...)``.
        """
        return self.under(parameters, lambda: self.features_and_outputs(inputs)[1])

    def modules_of(self, title: str) -> dict[str, nn.Module]:
        """Modules of a method, by name; empty for a method without any.

        Args:
            title: Title of the method.
        """
        given: Any = getattr(self, METHOD_MODULES, {})
        return dict(given[title].named_children()) if title in given else {}

    @property
    def roots(self) -> dict[str, nn.Module]:
        """Backbone, head, and one root of the modules of methods if there are any, by the first part of their keys."""
        return roots_of(self)


def roots_of(owner: Participant | Network) -> dict[str, nn.Module]:
    """Backbone, head, and one root of the modules of methods if there are any, by the first part of their keys.

    Args:
        owner: Participant or network.
    """
    found = {name: getattr(owner, name, None) for name in ("backbone", "head", METHOD_MODULES)}
    return {name: root for name, root in found.items() if root is not None}


def is_of_method(key: str) -> bool:
    """True for the key of a parameter that belongs to a method's module."""
    return key.startswith(f"{METHOD_MODULES}.")


def without_methods(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters that belong to no method's module, by key."""
    return {key: one for key, one in parameters.items() if not is_of_method(key)}


def mean_loss(losses: Tensor, weights: Tensor, mask: Tensor | None, dim: int = -1) -> Tensor:
    """Mean loss over a batch's examples, padding left out, shape ``(...,)``.

    Args:
        losses: Weighted loss of each example, shape ``(..., B)``.
        weights: Weight of each example, of the same shape.
        mask: True where there is an example, of the same shape; None if there is one everywhere.
        dim: Dimension of the examples.
    """
    if mask is not None:
        # By `where`, not by a product: padding may have an infinite loss.
        zero = losses.new_zeros(())
        losses, weights = torch.where(mask, losses, zero), torch.where(mask, weights, zero)
    return losses.sum(dim) / weights.sum(dim)
