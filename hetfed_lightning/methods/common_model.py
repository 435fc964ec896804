"""Base of methods that give every participant a model of one architecture beside its own network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hetfed_lightning.methods.common_start import CommonStart
from hetfed_lightning.participants.participant import Participant

if TYPE_CHECKING:
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.messages import Message
    from hetfed_lightning.methods.participant_data import ParticipantData

COMMON = "common"
"""Name of the module."""


class CommonModel(CommonStart):
    """Methods with a common model that travels, is averaged by examples, and is trained with the participant.

    Its parameters are trained by the participant's optimizer with a loss that the method adds; buffers, such as running
    statistics, stay with the participant.

    Args:
        common: Model that maps inputs of the backbones to outputs ``(B, C)``; each participant gets a copy. None for
            copies of the participants' own networks, which then have to be of one architecture.
    """

    def __init__(self, common: nn.Module | None = None) -> None:
        self.model = common

    @property
    def remedy(self) -> str:
        """Sentence on what to change if participants have nothing in common."""
        return f"Give {type(self).__name__}(common=...) a model that all can train beside their own."

    def modules(self, participant: Participant) -> Mapping[str, nn.Module]:
        """The common model.

        Args:
            participant: Participant that gets it.

        Raises:
            ValueError: If the copy of its own network would be one of several inputs.
        """
        if self.model is not None:
            return {COMMON: deepcopy(self.model)}
        check_one_input(participant, self.title)
        parts = OrderedDict(backbone=deepcopy(participant.backbone), head=deepcopy(participant.head))
        return {COMMON: nn.Sequential(parts)}

    def common(self, participant: Participant) -> dict[str, Tensor]:
        """Parameters of the participant's common model, by key.

        Args:
            participant: The participant.
        """
        model = participant.modules_of(self.title)[COMMON]
        return {key: one.detach() for key, one in model.named_parameters()}

    @torch.no_grad()
    def receive(self, participant: Participant, data: ParticipantData, state: Message, context: Context) -> None:
        """Take over the parameters of the common model.

        Args:
            participant: Unused.
            data: Unused.
            state: Parameters by key.
            context: The common model.
        """
        del participant, data
        for key, parameter in context.modules[COMMON].named_parameters():
            parameter.copy_(state[key])

    def answers(self, inputs: Any, features: Tensor, outputs: Tensor, context: Context) -> dict[str, Tensor]:
        """Outputs of the common model, measured beside the participant's own.

        Args:
            inputs: Inputs of the backbone, of B examples.
            features: Unused.
            outputs: Outputs of the participant's network, for their shape.
            context: The common model.
        """
        del features
        found: Tensor = context.modules[COMMON](inputs)
        return {COMMON: found.view_as(outputs)}


def check_one_input(participant: Participant, method: str) -> None:
    """Refuse a participant whose features are not its backbone's output for its inputs.

    Args:
        participant: Participant whose network a method computes with other weights.
        method: Name of the method.

    Raises:
        ValueError: If they are not; names both.
    """
    if type(participant).features_of is not Participant.features_of:
        raise ValueError(
            f"{participant.label}: {method} computes with a copy of a backbone and a head, and the network of "
            f"{type(participant).__name__} has more. Leave out one of the two."
        )
