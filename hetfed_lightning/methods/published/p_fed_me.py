"""pFedMe: personal models as proximal points of a common one, which follows them (Dinh et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from hetfed_lightning.methods.common_model import COMMON, CommonModel
from hetfed_lightning.methods.common_start import samples, weighted_mean_of
from hetfed_lightning.methods.messages import Combined, Message, When
from hetfed_lightning.methods.plans import Moment, Part
from hetfed_lightning.methods.search_space import log_range, search_space
from hetfed_lightning.seeding import stream_generator

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import Cohorts
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.method import About
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.participant import Participant

COUNT = "count"
"""Key of the number of inner steps in a participant's memory."""


class PFedMe(CommonModel):
    """Personal models theta that minimise ``f_k(theta) + lam/2 ||theta - w_k||^2``, and a common w that follows them.

    The participant's network is theta, which predicts and is exported, trained by its own optimizer. ``w_k`` is a copy
    of the common model in the participant's modules, to which no loss gives a gradient. After every K inner steps it
    becomes ``w_k - lr lam (w_k - theta)``. A round has R times K inner steps, whatever the participant's
    ``local_epochs``. What travels is ``w_k``; the server makes ``(1 - beta) w + beta mean(w_k)``. Figures of w stand
    beside, as ``accuracy.common``.

    In the paper and its code the K inner steps are on one batch; here each is on the next batch of the participant's
    own data, which is the same where a batch is all of it. The paper leaves open where the inner steps begin: its code
    begins at ``w_k`` in each round, here theta goes on from where it was.

    Args:
        lam: Weight lambda of the distance, above 0; 15 in the paper's tables.
        lr: Learning rate eta of ``w_k``, above 0, of which ``lr * lam`` should be at most 1: that is where ``w_k``
            becomes theta.
        inner_steps: Inner steps K to each step of ``w_k``, at least 1.
        local_rounds: Steps R of ``w_k`` in a round, at least 1.
        beta: Weight of the mean in the server's step, above 0: 1 replaces w by it, the paper has up to 2.
        averaged: Fraction in (0, 1] of those who train whose ``w_k`` is averaged, at least one. In the paper all
            participants train and S of them, drawn in each round, are averaged: ``Federation(participation=1)`` and
            ``averaged=S/N``.
        weighting: ``"samples"`` weighs ``w_k`` by ``n_k / n`` of the averaged, as the paper's code does; ``"uniform"``
            as Algorithm 1 does.
        seed: Seed of the draws of who is averaged.

    Raises:
        ValueError: If a setting is out of its range; before training, if no two participants have networks of one
            layout.

    Reference:
        Dinh, Tran, Nguyen (2020), Personalized Federated Learning with Moreau Envelopes, NeurIPS, Algorithm 1.
    """

    search_space = search_space(lam=log_range(1.0, 30.0), lr=log_range(0.001, 0.1))

    def __init__(
        self,
        lam: float = 15.0,
        lr: float = 0.005,
        inner_steps: int = 5,
        local_rounds: int = 20,
        *,
        beta: float = 1.0,
        averaged: float = 1.0,
        weighting: Literal["samples", "uniform"] = "samples",
        seed: int = 0,
    ) -> None:
        for name, value in (("lam", lam), ("lr", lr), ("beta", beta)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a finite number above 0, got {value}.")
        for name, count in (("inner_steps", inner_steps), ("local_rounds", local_rounds)):
            if count < 1:
                raise ValueError(f"{name}: expected at least 1, got {count}.")
        if not 0 < averaged <= 1:
            raise ValueError(f"averaged: expected a fraction in (0, 1], got {averaged}.")
        if weighting not in {"samples", "uniform"}:
            raise ValueError(f"weighting: expected 'samples' or 'uniform', got {weighting!r}.")
        super().__init__()
        self.lam, self.lr, self.inner_steps, self.local_rounds = lam, lr, inner_steps, local_rounds
        self.beta, self.averaged, self.weighting, self.seed = beta, averaged, weighting, seed

    @property
    def remedy(self) -> str:
        """Sentence on what to change if participants have nothing in common."""
        return "Give them networks of one architecture, heads included."

    def plan(self, participant: Participant, moment: Moment, round_index: int) -> Sequence[Part]:
        """Inner steps of a round.

        Args:
            participant: Participant, for the batches of a step.
            moment: ``"local"`` alone.
            round_index: Unused.
        """
        del round_index
        steps = self.local_rounds * self.inner_steps * participant.accumulate_grad_batches
        return [Part(steps=steps)] if moment == "local" else ()

    def weight_term(self, parameters: Mapping[str, Tensor], context: Context) -> Tensor:
        """Term ``lam/2 ||theta - w_k||^2``, a scalar.

        Args:
            parameters: Trainable parameters of the personal model by key.
            context: The participant's ``w_k``.
        """
        common = {key: one.detach() for key, one in context.modules[COMMON].named_parameters()}
        return self.lam / 2 * torch.stack([(one - common[key]).square().sum() for key, one in parameters.items()]).sum()

    def after_step(self, parameters: Mapping[str, Tensor], context: Context) -> None:
        """Step of ``w_k`` towards the personal model, after every K inner steps.

        Args:
            parameters: Trainable parameters of the personal model by key.
            context: The participant's ``w_k``, and its number of inner steps in the round.
        """
        if int(context.memory[COUNT].add_(1)) % self.inner_steps:
            return
        for key, weight in context.modules[COMMON].named_parameters():
            if key in parameters:
                weight.sub_(self.lr * self.lam * (weight - parameters[key]))

    def senders(self, when: When, round_index: int, about: About, cohorts: Cohorts) -> Sequence[str]:
        """Names of those whose ``w_k`` is averaged, at a round's end; of the first of each group as the run begins.

        Args:
            when: ``"start"`` or ``"end"`` of the round.
            round_index: Index of the round, from 0.
            about: Descriptions of all known participants, by name.
            cohorts: Cohort of each round.
        """
        asked = list(super().senders(when, round_index, about, cohorts))
        if when == "start" or self.averaged == 1 or not asked:
            return asked
        count = max(1, round(self.averaged * len(asked)))
        order = torch.randperm(len(asked), generator=stream_generator(self.seed, "averaged", round_index))
        return [asked[place] for place in sorted(order[:count].tolist())]

    def average(self, sent: Mapping[str, Message], about: About, server: ServerMemory, round_index: int) -> Combined:
        """Next common weights.

        Args:
            sent: ``w_k`` by sender.
            about: Descriptions of all members, for their numbers of examples.
            server: Common weights before the round.
            round_index: Unused.
        """
        del round_index
        weights = samples(about, list(sent)) if self.weighting == "samples" else None
        mean = weighted_mean_of(sent, list(next(iter(sent.values()))), weights)
        return Combined({key: torch.lerp(server.last[key], one, self.beta) for key, one in mean.items()})

    @torch.no_grad()
    def receive(self, participant: Participant, data: ParticipantData, state: Message, context: Context) -> None:
        """Begin the next round at the common weights.

        Args:
            participant: Unused.
            data: Unused.
            state: Common weights by key.
            context: The participant's ``w_k``, and its number of inner steps since the last result.
        """
        super().receive(participant, data, state, context)
        context.memory[COUNT] = torch.zeros((), dtype=torch.int64)
