"""FD: mean outputs by class travel, and each participant learns from the others' (Jeong et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from hetfed_lightning.methods.class_means import (
    KNOWN,
    PROTOTYPES,
    check_multiclass,
    class_means,
    mean_over_owners,
    refuse_unlike,
)
from hetfed_lightning.methods.messages import Combined, Message, PerParticipant, Work
from hetfed_lightning.methods.method import About, Method
from hetfed_lightning.methods.search_space import log_range, search_space

if TYPE_CHECKING:
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.participant import Participant

LAYOUT = "layout"


class FedDistill(Method):
    """Local loss ``CE + weight distance(output, mean output of the others for the class)``: no public set, any network.

    What travels: mean logits by class and numbers of examples by class up; for each participant the mean over the
    others who have a class down, all alike. A class that only one participant has gives it no further loss.

    Args:
        weight: Weight gamma of the distance, at least 0.
        distance: ``"cross_entropy"``: cross-entropy to the softmax of the mean logits, the paper's; ``"squared"``: mean
            squared distance of logits, as in later libraries. Cross-entropy to raw logits, found in published code,
            diverges.

    Raises:
        ValueError: If a setting is out of its range; before training, if a task is not multiclass, or numbers of
            classes differ.

    Reference:
        Jeong et al. (2018), Communication-Efficient On-Device Machine Learning: Federated Distillation and Augmentation
        under Non-IID Private Data, arXiv 1811.11479, Algorithm 1. There outputs are averaged during local steps; here
        by one pass at their end.
    """

    search_space = search_space(weight=log_range(0.01, 10.0))

    def __init__(self, weight: float = 1.0, *, distance: Literal["cross_entropy", "squared"] = "cross_entropy") -> None:
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight: expected a finite number of at least 0, got {weight}.")
        if distance not in {"cross_entropy", "squared"}:
            raise ValueError(f"distance: expected 'cross_entropy' or 'squared', got {distance!r}.")
        self.weight, self.distance = weight, distance

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Layout of the mean outputs, shape ``(C, C)``.

        Args:
            participant: Participant to describe.
            data: Its training examples.

        Raises:
            ValueError: If its task is not multiclass.
        """
        check_multiclass(participant, self.title)
        return {LAYOUT: torch.empty(data.output_width, data.output_width, device="meta")}

    def groups(self, about: About) -> Mapping[str, Sequence[str]]:
        """One group of all.

        Args:
            about: Descriptions of all participants, by name.

        Raises:
            ValueError: If their numbers of classes differ.
        """
        refuse_unlike({name: tuple(one[LAYOUT].shape) for name, one in about.items()}, self.title, "outputs")
        return super().groups(about)

    def send(self, participant: Participant, data: ParticipantData, work: Work, context: Context) -> Message:
        """Mean logits by class, shape ``(C, C)``, and numbers of examples, shape ``(C,)``.

        Args:
            participant: Unused.
            data: Its training examples.
            work: Unused.
            context: Unused.
        """
        del participant, work, context
        return class_means(data.outputs, data)

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        """For each member, the mean logits of the other senders by class, shape ``(C, C)``.

        Args:
            sent: Means and counts by sender.
            asked: Unused.
            about: Descriptions of all members.
            server: Unused.
            round_index: Unused.
        """
        del asked, server, round_index
        nobody = {key: torch.zeros_like(one) for key, one in next(iter(sent.values())).items()}
        found = PerParticipant()
        for name in about:
            others = [one for other, one in sent.items() if other != name] or [nobody]
            found[name] = mean_over_owners(others, by_samples=False)
        return Combined(found)

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
        """Own loss and weighted distance to the others' mean output for the target, shape ``(B,)``.

        Args:
            own: Losses of the task, shape ``(B,)``.
            inputs: Unused.
            features: Unused.
            outputs: Outputs of B examples, shape ``(B, C)``.
            target: Classes, shape ``(B,)``.
            on: Unused.
            context: Mean logits received; without any the own loss is left as it is.
        """
        del inputs, features, on
        if not context.received:
            return own
        theirs = context.received[PROTOTYPES][target]
        if self.distance == "squared":
            apart = (outputs - theirs).square().mean(dim=1)
        else:
            apart = -(functional.softmax(theirs, dim=1) * functional.log_softmax(outputs, dim=1)).sum(dim=1)
        return own + self.weight * context.received[KNOWN][target] * apart
