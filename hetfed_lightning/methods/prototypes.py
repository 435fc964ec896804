"""Base of methods in which participants send class means of their features and are pulled towards common vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from hetfed_lightning.methods.class_means import KNOWN, PROTOTYPES, check_multiclass, class_means, refuse_unlike
from hetfed_lightning.methods.messages import Message, Work
from hetfed_lightning.methods.method import About, Method

if TYPE_CHECKING:
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.participants.participant import Participant

LAYOUT = "layout"
"""Key of the layout of the means in a description."""


class PrototypeMethod(Method):
    """Methods with a common vector of the feature space for each class; only these and class means travel.

    Networks may be of any architecture with features of one width. The means are those of the network as it is at the
    round's end, in evaluation mode.

    Args:
        weight: Weight of the squared distance to the class's vector, a mean over features, at least 0.
        predicts: ``"head"``: participants predict by their heads; ``"prototype"``: by the nearest vector. The other is
            measured beside, as ``accuracy.prototype`` or ``accuracy.head``.

    Raises:
        ValueError: If a setting is out of its range; before training, if a task is not multiclass, or widths differ.
    """

    def __init__(self, weight: float, predicts: Literal["head", "prototype"] = "head") -> None:
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight: expected a finite number of at least 0, got {weight}.")
        if predicts not in {"head", "prototype"}:
            raise ValueError(f"predicts: expected 'head' or 'prototype', got {predicts!r}.")
        self.weight, self.predicts = weight, predicts

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Layout of the class means, shape ``(C, D)``.

        Args:
            participant: Participant to describe.
            data: Its training examples.

        Raises:
            ValueError: If its task is not multiclass.
        """
        check_multiclass(participant, self.title)
        width = data.features.flatten(1).shape[1]
        return {LAYOUT: torch.empty(data.output_width, width, device="meta")}

    def groups(self, about: About) -> Mapping[str, Sequence[str]]:
        """One group of all.

        Args:
            about: Descriptions of all participants, by name.

        Raises:
            ValueError: If their features or classes differ in number.
        """
        refuse_unlike({name: tuple(one[LAYOUT].shape) for name, one in about.items()}, self.title, "features")
        return super().groups(about)

    def send(self, participant: Participant, data: ParticipantData, work: Work, context: Context) -> Message:
        """Means of the features by class, shape ``(C, D)``, and numbers of examples, shape ``(C,)``.

        Args:
            participant: Unused.
            data: Its training examples.
            work: Unused.
            context: Unused.
        """
        del participant, work, context
        return class_means(data.features.flatten(1), data)

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
        """Own loss and weighted mean squared distance to the vector of the target, shape ``(B,)``.

        Args:
            own: Losses of the task, shape ``(B,)``.
            inputs: Unused.
            features: Features of B examples, shape ``(B, D)``.
            outputs: Unused.
            target: Classes, shape ``(B,)``.
            on: Unused.
            context: Vectors received; without any the own loss is left as it is.
        """
        del inputs, outputs, on
        if not context.received:
            return own
        apart = (features.flatten(1) - context.received[PROTOTYPES][target]).square().mean(dim=1)
        return own + self.weight * context.received[KNOWN][target] * apart

    def answers(self, inputs: Any, features: Tensor, outputs: Tensor, context: Context) -> dict[str, Tensor]:
        """Negative squared distances to the vectors, shape ``(B, C)``, beside the head's outputs or in their place.

        Args:
            inputs: Unused.
            features: Features of B examples, shape ``(B, D)``.
            outputs: Outputs of the head, shape ``(B, C)``.
            context: Vectors received; without any there is nothing to compare with.
        """
        del inputs
        if not context.received:
            return {}
        vectors = context.received[PROTOTYPES].to(features)
        apart = (features.flatten(1)[:, None] - vectors).square().sum(dim=2)
        unknown = context.received[KNOWN] == 0
        nearness = torch.where(unknown, -apart.amax() - 1, -apart).to(outputs)
        return {"prediction": nearness, "head": outputs} if self.predicts == "prototype" else {"prototype": nearness}
