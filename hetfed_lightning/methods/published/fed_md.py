"""FedMD: participants of any architecture match the mean of all logits on a public set (Li and Wang 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from hetfed_lightning.methods.messages import Combined, Exchange, Message, When, Work
from hetfed_lightning.methods.method import About, Method
from hetfed_lightning.methods.plans import Moment, Part
from hetfed_lightning.methods.public_answers import answer_layout, refuse_unlike_answers
from hetfed_lightning.methods.search_space import choices, log_range, search_space

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import Cohorts
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.participant import Participant

LOGITS = "logits"


class FedMD(Method):
    """Rounds of digesting the consensus on the public set, then revisiting own data.

    As a round begins, all who have learned something send their logits on the public set; the consensus is their plain
    mean. Local work is then passes over the public set with the mean absolute error to the consensus logits, and passes
    over own data with the participant's own loss, in this order. Round 0 is own training alone.

    In the paper a subset of the public set is drawn for each round, to save memory; here it is the whole set. Its
    initial training on labels of the public set is left out, since public sets have none here.

    Args:
        digest_epochs: Passes over the public set in a round, at least 1.
        revisit_epochs: Passes over own data, at least 1; None for the participant's own number.
        batch_size: Public examples in a batch, at least 1.
        weight: Factor of the digest's loss, above 0; 1 in the paper.

    Raises:
        ValueError: If a setting is out of its range; before training, if there is no public set, or outputs differ.

    Reference:
        Li and Wang (2019), FedMD: Heterogenous Federated Learning via Model Distillation, arXiv 1910.03581,
        Algorithm 1.
    """

    search_space = search_space(digest_epochs=choices(1, 2, 4), weight=log_range(0.1, 10.0))
    exchanges = (Exchange("start", "joined"),)

    def __init__(
        self,
        digest_epochs: int = 1,
        revisit_epochs: int | None = None,
        *,
        batch_size: int = 64,
        weight: float = 1.0,
    ) -> None:
        for name, count in (
            ("digest_epochs", digest_epochs),
            ("revisit_epochs", revisit_epochs),
            ("batch_size", batch_size),
        ):
            if count is not None and count < 1:
                raise ValueError(f"{name}: expected at least 1, got {count}.")
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"weight: expected a finite number above 0, got {weight}.")
        self.digest_epochs, self.revisit_epochs = digest_epochs, revisit_epochs
        self.batch_size, self.weight = batch_size, weight

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Layout of the logits on the public set, shape ``(P, C)``.

        Args:
            participant: Participant to describe.
            data: The public set.

        Raises:
            ValueError: If there is none, or the participant reads nothing of it.
        """
        return answer_layout(participant, data, self.title)

    def groups(self, about: About) -> Mapping[str, Sequence[str]]:
        """One group of all.

        Args:
            about: Descriptions of all participants, by name.

        Raises:
            ValueError: If their outputs differ in number.
        """
        refuse_unlike_answers(about, self.title)
        return super().groups(about)

    def senders(self, when: When, round_index: int, about: About, cohorts: Cohorts) -> Sequence[str]:
        """Everyone who has joined before the round, from round 1 on.

        Args:
            when: ``"start"`` of the round.
            round_index: Index of the round, from 0.
            about: Descriptions of all known participants, by name.
            cohorts: Cohort of each round.
        """
        new = cohorts.newcomers(round_index)
        asked = super().senders(when, round_index, about, cohorts) if round_index else []
        return [name for name in asked if name not in new]

    def plan(self, participant: Participant, moment: Moment, round_index: int) -> Sequence[Part]:
        """Passes over the public set, from round 1 on, then over own data.

        Args:
            participant: Participant whose work is planned.
            moment: ``"local"`` alone.
            round_index: Index of the round, from 0.
        """
        if moment != "local":
            return ()
        digest = [Part(epochs=self.digest_epochs, on="public", batch_size=self.batch_size)] if round_index else []
        return [*digest, Part(epochs=self.revisit_epochs or participant.local_epochs)]

    def send(self, participant: Participant, data: ParticipantData, work: Work, context: Context) -> Message:
        """Logits on the public set, shape ``(P, C)``.

        Args:
            participant: Unused.
            data: The public set.
            work: Unused.
            context: Unused.
        """
        del participant, work, context
        return {LOGITS: data.public_outputs}

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        """Consensus logits, shape ``(P, C)``: the plain mean.

        Args:
            sent: Logits by sender.
            asked: Unused.
            about: Unused.
            server: Unused.
            round_index: Unused.
        """
        del asked, about, server, round_index
        return Combined({LOGITS: torch.stack([one[LOGITS] for one in sent.values()]).mean(dim=0)})

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
        """Mean absolute error to the consensus on public examples, shape ``(B,)``; the own loss of own ones.

        Args:
            own: Losses of the task, shape ``(B,)``; None for public examples.
            inputs: Unused.
            features: Unused.
            outputs: Logits of B examples, shape ``(B, C)``.
            target: Of public examples their places in the public set, shape ``(B,)``.
            on: Which examples these are.
            context: Consensus received.
        """
        del inputs, features
        if on == "own":
            return own
        return self.weight * (outputs - context.received[LOGITS][target]).abs().mean(dim=1)
