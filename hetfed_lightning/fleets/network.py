"""The network of a fleet's members as one plain module, whose parameters are given with every call."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant


class Network(nn.Module):
    """Copy of a participant's backbone and head, in their modes, under the participant's keys.

    Args:
        participant: Participant whose forward pass is the head applied to the backbone's features.
    """

    def __init__(self, participant: Participant) -> None:
        super().__init__()
        self.backbone = deepcopy(participant.backbone)
        self.head = deepcopy(participant.head)
        for module in self.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()  # It drops nothing, but asks for random numbers all the same.

    def forward(self, inputs: Any, *, with_features: bool = False) -> Any:
        """Outputs of the head on the backbone's features of ``inputs`` ``(B, ...)``, shape ``(B, C)``.

        Args:
            inputs: Inputs of the backbone, shape ``(B, ...)``.
            with_features: True for the features, shape ``(B, D)``, and the outputs.
        """
        features = self.backbone(inputs)
        outputs = self.head(features)
        return (features, outputs) if with_features else outputs

    def outputs_with(self, parameters: Mapping[str, Tensor], inputs: Any) -> Tensor:
        """Outputs under other parameters (and buffers) than the network's own, shape ``(B, C)``.

        Args:
            parameters: Tensors of the parameters' shapes, by key.
            inputs: Inputs of the backbone, shape ``(B, ...)``.
        """
        outputs: Tensor = functional_call(self, dict(parameters), (inputs,))
        return outputs

    def features_and_outputs_with(self, parameters: Mapping[str, Tensor], inputs: Any) -> tuple[Tensor, Tensor]:
        """Features, shape ``(B, D)``, and outputs, shape ``(B, C)``, under other parameters than the network's own.

        Args:
            parameters: Tensors of the parameters' shapes, by key.
            inputs: Inputs of the backbone, shape ``(B, ...)``.
        """
        both: tuple[Tensor, Tensor] = functional_call(self, dict(parameters), (inputs,), {"with_features": True})
        return both


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
