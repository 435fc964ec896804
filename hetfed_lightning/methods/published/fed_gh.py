"""FedGH: the server trains one head on the participants' class means of features (Yi et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from hetfed_lightning.methods.class_means import COUNTS, MEANS, check_multiclass, class_means, refuse_unlike
from hetfed_lightning.methods.messages import Combined, Message, Work
from hetfed_lightning.methods.method import About, Method
from hetfed_lightning.methods.search_space import choices, log_range, search_space

if TYPE_CHECKING:
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.participant import Participant

LAYOUT = "layout"
WEIGHT, BIAS = "weight", "bias"


class FedGH(Method):
    """Participants of any backbone replace their linear heads by one that the server trains on class means.

    What travels: class means of features and numbers of examples by class up, the head down. The server begins with
    zeros and takes, for each sender in turn, a step of plain gradient descent on the mean cross-entropy of its means.
    Local training is the participant's own, head included.

    Args:
        server_lr: Learning rate of the server's steps, above 0; .01 in the paper.
        server_epochs: Passes over the senders in a round, at least 1; 1 in the paper.

    Raises:
        ValueError: If a setting is out of its range; before training, if a task is not multiclass, widths differ, or a
            head is not an ``nn.Linear`` with a bias.

    Reference:
        Yi, Wang, Liu, Shi, Yu (2023), FedGH: Heterogeneous Federated Learning with Generalized Global Header, ACM MM,
        Algorithm 1. The paper's header begins at random.
    """

    search_space = search_space(server_lr=log_range(0.001, 0.1), server_epochs=choices(1, 5))

    def __init__(self, server_lr: float = 0.01, server_epochs: int = 1) -> None:
        if not (math.isfinite(server_lr) and server_lr > 0):
            raise ValueError(f"server_lr: expected a finite number above 0, got {server_lr}.")
        if server_epochs < 1:
            raise ValueError(f"server_epochs: expected at least 1, got {server_epochs}.")
        self.server_lr, self.server_epochs = server_lr, server_epochs

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Layout of the class means, shape ``(C, D)``, which is that of the head.

        Args:
            participant: Participant to describe.
            data: Its training examples.

        Raises:
            ValueError: If its task is not multiclass, or its head not linear.
        """
        del data
        check_multiclass(participant, self.title)
        head = participant.head
        if not (isinstance(head, nn.Linear) and head.bias is not None):
            raise ValueError(
                f"{participant.label}: FedGH trains a linear head with a bias at the server, and its head is a "
                f"{type(head).__name__}: make the head nn.Linear(...), and the rest part of the backbone."
            )
        return {LAYOUT: torch.empty(head.out_features, head.in_features, device="meta")}

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

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        """The head, of weight ``(C, D)`` and bias ``(C,)``.

        Args:
            sent: Means and counts by sender.
            asked: Unused.
            about: Unused.
            server: The last head.
            round_index: Unused.
        """
        del asked, about, round_index
        means = next(iter(sent.values()))[MEANS]
        weight = server.last.get(WEIGHT, torch.zeros_like(means)).to(means)
        bias = server.last.get(BIAS, means.new_zeros(len(means))).to(means)
        for _ in range(self.server_epochs):
            for one in sent.values():
                classes = torch.nonzero(one[COUNTS] > 0)[:, 0]
                inputs = one[MEANS][classes]
                # The gradient of the mean cross-entropy by the outputs.
                error = functional.softmax(inputs @ weight.T + bias, dim=1) - functional.one_hot(classes, len(bias))
                weight = weight - self.server_lr * error.T @ inputs / len(classes)
                bias = bias - self.server_lr * error.mean(dim=0)
        return Combined({WEIGHT: weight, BIAS: bias})

    @torch.no_grad()
    def receive(self, participant: Participant, data: ParticipantData, state: Message, context: Context) -> None:
        """Take over the head.

        Args:
            participant: The receiver.
            data: Unused.
            state: Weight and bias of the head.
            context: Unused.
        """
        del data, context
        participant.materialise()
        for key, parameter in participant.head.named_parameters():
            parameter.copy_(state[key])
