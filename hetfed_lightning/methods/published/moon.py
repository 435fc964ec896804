"""MOON: features are drawn to those of the common model and away from those of the own last one (Li et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from hetfed_lightning.methods.common_model import check_one_input
from hetfed_lightning.methods.common_start import SharedWeights
from hetfed_lightning.methods.messages import Message, Work
from hetfed_lightning.methods.search_space import choices, log_range, search_space

if TYPE_CHECKING:
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.participants.participant import Participant

FRAME, BACKBONE, PREVIOUS = "frame", "backbone.", "previous/"
"""Name of the module; beginning of a backbone's keys; beginning of the keys of the last own weights."""

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
"""Layers that are off in the two networks that features are compared with."""


class MOON(SharedWeights):
    """Averaging of shared weights, weighted by examples, with a contrastive term of features in the local loss.

    With z the features of the network, z_g those of the weights that the round began with and z_p those of the
    participant's weights at the end of its last round, the local loss is
    ``CE + weight * -log(e^(s(z, z_g)/tau) / (e^(s(z, z_g)/tau) + e^(s(z, z_p)/tau)))``, s being the cosine. In a
    participant's first round there is no term. Nothing is dropped in z_g and z_p, as in the published code, whose
    networks are in evaluation mode; normalisation is by the batch here, since running statistics do not travel. What
    travels is the shared weights. The paper's features are those of a projection head, part of the backbone here.

    Args:
        weight: Weight mu of the term, at least 0; the paper tries .1, 1, 5 and 10.
        temperature: Temperature tau, above 0; .5 in the paper.

    Raises:
        ValueError: If a setting is out of its range; before training, if a participant does not share its whole
            backbone, or no two share weights of one layout.

    Reference:
        Li, He, Song (2021), Model-Contrastive Federated Learning, CVPR, eq. 3 and Algorithm 1.
    """

    paper_shares = ("*",)
    search_space = search_space(weight=log_range(0.01, 10.0), temperature=choices(0.2, 0.5, 1.0))

    def __init__(self, weight: float = 1.0, temperature: float = 0.5) -> None:
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight: expected a finite number of at least 0, got {weight}.")
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature: expected a finite number above 0, got {temperature}.")
        self.weight, self.temperature = weight, temperature

    def modules(self, participant: Participant) -> Mapping[str, nn.Module]:
        """A backbone that computes with other weights than the participant's, drops nothing, and is not trained.

        Args:
            participant: Participant that gets it.

        Raises:
            ValueError: If its features are not its backbone's output.
        """
        check_one_input(participant, self.title)
        frame = deepcopy(participant.backbone).requires_grad_(requires_grad=False)
        for module in frame.modules():
            if isinstance(module, DROPOUTS):
                module.p = 0.0
        return {FRAME: frame}

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Layout of the shared weights, and the number of examples.

        Args:
            participant: Participant to describe.
            data: Its training examples, for their number.

        Raises:
            ValueError: If its backbone has parameters that it does not share.
        """
        shared = set(self.common(participant))
        if apart := [key for key, _ in participant.backbone.named_parameters() if BACKBONE + key not in shared]:
            raise ValueError(
                f"{participant.label}: MOON compares features of common backbones, and {BACKBONE}{apart[0]} is not "
                "shared: change Participant(shared=...)."
            )
        return super().describe(participant, data)

    def beside(self, participant: Participant, weights: Mapping[str, Tensor], work: Work, context: Context) -> Message:
        """Nothing; the own weights are remembered after a step.

        Args:
            participant: Unused.
            weights: Shared weights after the round.
            work: Number of its steps.
            context: Its memory.
        """
        del participant
        for key, weight in weights.items() if work.landed else ():
            if key.startswith(BACKBONE):
                context.memory[PREVIOUS + key] = weight.clone()
        return {}

    def example_loss(
        self,
        own: Tensor,
        inputs: Any,
        features: Tensor,
        outputs: Tensor,
        target: Tensor,
        on: Literal["own", "public"],
        context: Context,
    ) -> Tensor:
        """Own loss and weighted contrastive term, shape ``(B,)``.

        Args:
            own: Losses of the task, shape ``(B,)``.
            inputs: Inputs of B examples.
            features: Features of the network, shape ``(B, D)``.
            outputs: Unused.
            target: Unused.
            on: Unused.
            context: Weights received and remembered.
        """
        del outputs, target, on
        if not context.memory:
            return own
        frame = context.modules[FRAME]
        near, far = (
            functional.cosine_similarity(
                features.flatten(1), functional_call(frame, _part(weights, beginning), (inputs,)).flatten(1), dim=1
            )
            / self.temperature
            for weights, beginning in ((context.received, BACKBONE), (context.memory, PREVIOUS + BACKBONE))
        )
        return own + self.weight * (torch.logaddexp(near, far) - near)


def _part(weights: Mapping[str, Tensor], beginning: str) -> dict[str, Tensor]:
    return {key.removeprefix(beginning): one.detach() for key, one in weights.items() if key.startswith(beginning)}
