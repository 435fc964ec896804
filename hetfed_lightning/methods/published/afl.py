"""AFL: linear heads on one frozen backbone, solved in closed form as if all examples were pooled (He et al. 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from hetfed_lightning.methods.class_means import check_multiclass
from hetfed_lightning.methods.messages import Combined, Message, When, Work
from hetfed_lightning.methods.method import About, Method
from hetfed_lightning.methods.plans import Moment, Part
from hetfed_lightning.methods.ridge import CROSS, GRAM, solved, sums_of
from hetfed_lightning.methods.search_space import log_range, search_space
from hetfed_lightning.participants.inseparable import digest

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import Cohorts
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.participant import Participant

HEAD, BACKBONE = "head", "backbone"
"""Keys of descriptions: layout of the head, shape ``(C, D)``, D counting a bias; digest of the backbone."""
WEIGHT, BIAS = "weight", "bias"
"""Keys of the head; the second in descriptions as well, of heads that have a bias."""


class AFL(Method):
    """One-shot learning of a linear head by ridge regression on the features of a frozen backbone that all have.

    What travels: the Gram matrix of a participant's features and their cross products with one-hot targets, in float64,
    once, at the end of the first round that it is sampled for. There are no local steps and no local loss. The server
    adds up and solves; everyone's head becomes the solution, which is that of the pooled examples however they are
    dealt out. One round is all of it if ``participation`` is 1. What a participant has told stays in the sums when it
    leaves. Sums of few examples reveal them.

    The backbones have to be equal in every value, such as pretrained ones; evaluation mode is used, so that running
    statistics stand still. Predictions are scores around 0 and 1 and no log-probabilities: accuracy is the figure to
    read, losses are high.

    Args:
        ridge: Weight of the penalty on the squared norm of the weights, at least 0. The paper adds its gamma to each
            participant's Gram matrix and takes it off in the end (RI process), which is 0 here; 1 by default, since
            with fewer examples than features the paper's solution fits noise. A head's bias bears no penalty; the
            paper's heads have none.

    Raises:
        ValueError: If the setting is out of its range; before training, if a task is not multiclass, a head is not an
            ``nn.Linear``, or heads or backbones differ.

    Reference:
        He, Tong, Fang, Sun, Zeng, Li, Chen, Zhuang (2025), AFL: A Single-Round Analytic Approach for Federated Learning
        with Pre-trained Models, CVPR. The paper sends each participant's solution and its Gram matrix, which is the
        same information.
    """

    search_space = search_space(ridge=log_range(0.001, 1000.0))

    def __init__(self, ridge: float = 1.0) -> None:
        if not (math.isfinite(ridge) and ridge >= 0):
            raise ValueError(f"ridge: expected a finite number of at least 0, got {ridge}.")
        self.ridge = ridge

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Layout of the head, and digest of the backbone, 32 numbers.

        Args:
            participant: Participant to describe.
            data: Its training examples.

        Raises:
            ValueError: If its task is not multiclass, or its head not linear.
        """
        del data
        check_multiclass(participant, self.title)
        head = participant.head
        if not isinstance(head, nn.Linear):
            found = type(head).__name__
            raise ValueError(  # noqa: TRY004 - of a setting
                f"{participant.label}: {self.title} solves a linear head, and its head is a {found}: make the head "
                "nn.Linear(...), and the rest part of the backbone."
            )
        participant.materialise()
        marks = "".join(digest(one) for one in participant.backbone.state_dict().values())
        whole = digest(torch.tensor(list(marks.encode())))
        bias = {} if head.bias is None else {BIAS: torch.empty(head.out_features, device="meta")}
        layout = torch.empty(head.out_features, head.in_features + len(bias), device="meta")
        return {HEAD: layout, BACKBONE: torch.tensor(list(whole.encode()))} | bias

    def groups(self, about: About) -> Mapping[str, Sequence[str]]:
        """One group of all.

        Args:
            about: Descriptions of all participants, by name.

        Raises:
            ValueError: If two heads or backbones differ; names both.
        """
        first = next(iter(about), "")
        for name, one in about.items():
            here, there = tuple(one[HEAD].shape), tuple(about[first][HEAD].shape)
            if here != there:
                raise ValueError(
                    f"{self.title} solves one head for all: that of {first!r} has {there[1]} weights for each of "
                    f"{there[0]} classes, that of {name!r} {here[1]} for each of {here[0]}. Give them heads of one "
                    "size, all with a bias or all without."
                )
            if not torch.equal(one[BACKBONE].cpu(), about[first][BACKBONE].cpu()):
                raise ValueError(
                    f"{self.title} adds up features of one frozen backbone, and those of {first!r} and {name!r} have "
                    "different values. Give all participants the same pretrained weights, or take FedGH."
                )
        return super().groups(about)

    def plan(self, participant: Participant, moment: Moment, round_index: int) -> Sequence[Part]:
        """No local step.

        Args:
            participant: Unused.
            moment: ``"local"`` alone.
            round_index: Unused.
        """
        del participant, round_index
        return [Part(steps=0)] if moment == "local" else ()

    def senders(self, when: When, round_index: int, about: About, cohorts: Cohorts) -> Sequence[str]:
        """Names of those who are sampled for the first time.

        Args:
            when: ``"end"`` of the round.
            round_index: Index of the round, from 0.
            about: Descriptions of all known participants, by name.
            cohorts: Cohort of each round.
        """
        asked = super().senders(when, round_index, about, cohorts)
        before = {name for earlier in range(round_index) for name in cohorts.active_names(earlier)}
        return [name for name in asked if name not in before]

    def send(self, participant: Participant, data: ParticipantData, work: Work, context: Context) -> Message:
        """Gram matrix of the features, shape ``(D, D)``, and cross products with one-hot targets, shape ``(D, C)``.

        Args:
            participant: The sender, for its head.
            data: Its training examples.
            work: Unused.
            context: Unused.
        """
        del work, context
        targets = functional.one_hot(data.targets.long(), participant.head.get_parameter(WEIGHT).shape[0])
        return sums_of(data.features.flatten(1), targets, bias=participant.head.bias is not None)

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        """The head, of weight ``(C, D)`` and bias ``(C,)`` if heads have one, in float64.

        Args:
            sent: Sums by sender.
            asked: Unused.
            about: Layout of the heads.
            server: Sums of the rounds before.
            round_index: Unused.
        """
        del asked, round_index
        for key in (GRAM, CROSS):
            told = torch.stack([one[key] for one in sent.values()]).sum(dim=0)
            server.tensors[key] = server.tensors[key].to(told) + told if key in server.tensors else told
        bias = BIAS in next(iter(about.values()))
        found = solved({GRAM: server.tensors[GRAM], CROSS: server.tensors[CROSS]}, self.ridge, bias=bias).T
        return Combined({WEIGHT: found[:, :-1], BIAS: found[:, -1]} if bias else {WEIGHT: found})

    @torch.no_grad()
    def receive(self, participant: Participant, data: ParticipantData, state: Message, context: Context) -> None:
        """Take over the head, in the participant's dtype.

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
