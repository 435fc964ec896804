"""IFCA: several models, of which each participant trains the one that fits its data best (Ghosh et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call

from hetfed_lightning.methods.common_start import SharedWeights, samples
from hetfed_lightning.methods.messages import Combined, Message, When, Work
from hetfed_lightning.methods.search_space import choices, search_space
from hetfed_lightning.modes import evaluating

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import Cohorts
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.method import About
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.participant import Participant

CHOICE = "choice"
"""Key of the chosen cluster, one-hot, shape ``(k,)``."""


class IFCA(SharedWeights):
    """Averaging in clusters that participants choose: whichever model has the lowest loss on their own examples.

    The server has one set of shared weights for each cluster and hands out all. Every participant measures them on its
    training examples, in evaluation mode, takes over the best, and trains it; its weights and its choice travel. A
    cluster becomes the mean of those who chose it, weighted by examples; one that nobody chose stays. The clusters
    begin as the initial weights of the first participants.

    Args:
        clusters: Number k of clusters, at least 1.

    Raises:
        ValueError: If the number is below 1; before training, if a participant shares nothing, no two share weights of
            one layout, or a group has fewer participants than clusters.

    Reference:
        Ghosh, Chung, Yin, Ramchandran (2020), An Efficient Framework for Clustered Federated Learning, NeurIPS,
        Algorithm 1, option II (model averaging). There the models begin at random, and means are not weighted.
    """

    replaces_state = False

    paper_shares = ("*",)
    search_space = search_space(clusters=choices(2, 3, 4))

    def __init__(self, clusters: int = 2) -> None:
        if clusters < 1:
            raise ValueError(f"clusters: expected at least 1, got {clusters}.")
        self.clusters = clusters

    def groups(self, about: About) -> Mapping[str, Sequence[str]]:
        """Participants with shared weights of one layout.

        Args:
            about: Descriptions of all participants, by name.

        Raises:
            ValueError: If a group has fewer participants than clusters.
        """
        found = super().groups(about)
        for members in found.values():
            if len(about) > 1 and len(members) < self.clusters:
                raise ValueError(
                    f"{self.title}: {', '.join(members)} share weights of one layout and are fewer than "
                    f"clusters={self.clusters}, which begin as theirs: lower clusters."
                )
        return found

    def senders(self, when: When, round_index: int, about: About, cohorts: Cohorts) -> Sequence[str]:
        """The first k of each group as the run begins; those who train, at a round's end.

        Args:
            when: ``"start"`` or ``"end"`` of the round.
            round_index: Index of the round, from 0.
            about: Descriptions of all known participants, by name.
            cohorts: Cohort of each round.
        """
        if when == "end":
            return super().senders(when, round_index, about, cohorts)
        if round_index:
            return []
        joined = cohorts.joined(round_index)
        first = {
            name
            for members in self.groups(about).values()
            for name in [one for one in members if one in joined][: self.clusters]
        }
        return [name for name in joined if name in first]

    def beside(self, participant: Participant, weights: Mapping[str, Tensor], work: Work, context: Context) -> Message:
        """The chosen cluster, one-hot; zeros before the first choice.

        Args:
            participant: Unused.
            weights: Shared weights, for their device.
            work: Unused.
            context: The choice, remembered.
        """
        del participant, work
        first = next(iter(weights.values()))
        return {CHOICE: context.memory.get(CHOICE, first.new_zeros(self.clusters))}

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        """All clusters, tensors of shape ``(k, ...)`` by key, and how many chose each.

        Args:
            sent: Weights and choices by sender.
            asked: Unused.
            about: Descriptions of the members, for their numbers of examples.
            server: The clusters before.
            round_index: Unused.
        """
        del asked, round_index
        messages = list(sent.values())
        keys = [key for key in messages[0] if key != CHOICE]
        if not server.last:
            # Fewer than k where somebody was left out: the first stand in for the missing.
            places = [place % len(messages) for place in range(self.clusters)]
            return Combined({key: torch.stack([messages[place][key] for place in places]) for key in keys})
        counts = samples(about, list(sent))
        found = {key: server.last[key].clone() for key in keys}
        figures = {}
        for cluster in range(self.clusters):
            members = {name: one for name, one in sent.items() if float(one[CHOICE][cluster]) > 0}
            figures[f"chose_{cluster}"] = float(len(members))
            total = sum(counts[name] for name in members)
            for key in keys if members else ():
                own = [one[key] * (counts[name] / total) for name, one in members.items()]
                found[key][cluster] = torch.stack(own).sum(dim=0)
        return Combined(found, figures)

    @torch.no_grad()
    def receive(self, participant: Participant, data: ParticipantData, state: Message, context: Context) -> None:
        """Take over the weights of the cluster with the lowest loss on the participant's examples.

        Args:
            participant: The receiver.
            data: Its training examples.
            state: The clusters, tensors of shape ``(k, ...)`` by key.
            context: The choice is remembered.
        """
        losses = []
        with evaluating(participant):
            batches = list(data.batches())
            for cluster in range(self.clusters):
                weights = {key: one[cluster] for key, one in state.items()}
                parts = [
                    participant.task.loss(functional_call(participant, weights, (inputs,)), target) * len(target)
                    for inputs, target in batches
                ]
                losses.append(torch.stack(parts).sum())
        choice = int(torch.stack(losses).argmin())
        participant.load_state_of({key: one[choice] for key, one in state.items()})
        first = next(iter(state.values()))
        context.memory[CHOICE] = first.new_zeros(self.clusters).index_fill(
            0, torch.tensor([choice]).to(first.device), 1
        )
