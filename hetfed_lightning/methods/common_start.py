"""Bases of methods that combine weights of one layout, from a common start, with tensors beside them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hetfed_lightning.methods.messages import Combined, Exchange, Message, When, Work
from hetfed_lightning.methods.method import About, Method

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import Cohorts
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.participant import Participant

SAMPLES = "samples"
"""Key of the number of training examples in a description."""


class CommonStart(Method):
    """Base of methods that combine weights of one layout, from a common start, with tensors that travel beside them.

    Participants whose common weights have equal keys, shapes and dtypes are a group. Before the first local step all of
    a group take over the weights of its first member, by an exchange of its own as round 0 begins. A subclass says
    which weights are common, what else travels, and what is made of the messages: by default the mean, weighted by
    examples.
    """

    exchanges = (Exchange("start", "joined"), Exchange("end"))
    needs_steps = True

    @abstractmethod
    def common(self, participant: Participant) -> dict[str, Tensor]:
        """Weights that are combined, by key.

        Args:
            participant: Participant that has them.

        Raises:
            ValueError: If it has none.
        """

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Layout of the common weights, and the number of examples.

        Args:
            participant: Participant to describe.
            data: Its training examples, for their number.

        Raises:
            ValueError: If it has no common weights.
        """
        layout = {key: torch.empty_like(one, device="meta") for key, one in self.common(participant).items()}
        return layout | {SAMPLES: torch.tensor(data.num_samples)}

    def groups(self, about: About) -> Mapping[str, Sequence[str]]:
        """Participants with common weights of one layout.

        Args:
            about: Descriptions of all participants, by name.

        Raises:
            ValueError: If no two participants are in one group.
        """
        found = super().groups(about)
        if len(about) > 1 and all(len(members) == 1 for members in found.values()):
            offered = "; ".join(f"{name} offers {', '.join(list(one)[:2])}" for name, one in about.items())
            raise ValueError(
                f"{self.title} has nothing in common to learn: no two participants have common weights of one layout "
                f"({offered}). {self.remedy}"
            )
        return found

    @property
    def remedy(self) -> str:
        """Sentence on what to change if participants have nothing in common."""
        return "Give them networks of one kind, or change Participant(shared=...)."

    def senders(self, when: When, round_index: int, about: About, cohorts: Cohorts) -> Sequence[str]:
        """The first of each group that is there as the run begins; those who train, at a round's end.

        Args:
            when: ``"start"`` or ``"end"`` of the round.
            round_index: Index of the round, from 0.
            about: Descriptions of all known participants, by name.
            cohorts: Cohort of each round.
        """
        asked = super().senders(when, round_index, about, cohorts)
        if when == "end":
            return asked
        groups = self.groups(about).values() if round_index == 0 else ()
        first = {next((name for name in members if name in asked), None) for members in groups}
        return [name for name in asked if name in first]

    def beside(self, participant: Participant, weights: Mapping[str, Tensor], work: Work, context: Context) -> Message:
        """Tensors that travel with the weights, of keys that no weight has; none by default.

        As the run begins there is no work yet, and they are of no use but for their layout.

        Args:
            participant: The sender.
            weights: Its common weights by key.
            work: Its local work of the round.
            context: Its side of the method; ``memory`` may be written to after a step.
        """
        del participant, weights, work, context
        return {}

    def average(self, sent: Mapping[str, Message], about: About, server: ServerMemory, round_index: int) -> Combined:
        """Result of the messages of a round's end: by default their mean, weighted by examples.

        Args:
            sent: Messages by sender: weights and what is beside them; at least one.
            about: Descriptions of the group's members.
            server: The group's memory; ``last`` has the weights that the round began with.
            round_index: Index of the round, from 0.
        """
        del server, round_index
        return Combined(weighted_mean_of(sent, list(next(iter(sent.values()))), samples(about, list(sent))))

    def send(self, participant: Participant, data: ParticipantData, work: Work, context: Context) -> Message:
        """Common weights, and what is beside them.

        Args:
            participant: The sender.
            data: Unused.
            work: Its local work of the round.
            context: Its side of the method.
        """
        del data
        weights = self.common(participant)
        return {**weights, **self.beside(participant, weights, work, context)}

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        """The common start, or the result of a round.

        Args:
            sent: Messages by sender.
            asked: Names of all asked members.
            about: Descriptions of the group's members.
            server: The group's memory.
            round_index: Index of the round, from 0.
        """
        if not server.last and len(asked) == 1:
            (first,) = sent.values()
            return Combined(dict(first))
        return self.average(sent, about, server, round_index)


class SharedWeights(CommonStart):
    """Base of methods whose common weights are those that participants share, and are replaced by the result."""

    replaces_state = True

    def common(self, participant: Participant) -> dict[str, Tensor]:
        """Weights that the participant shares, by key.

        Args:
            participant: The participant.

        Raises:
            ValueError: If it shares nothing.
        """
        found = participant.view_of(participant.averaged_keys())
        if not found:
            raise ValueError(
                f"{participant.label}: {self.title} replaces shared weights, and it shares none: change "
                "Participant(shared=...), or leave the method out."
            )
        return found


def weighted_mean_of(
    sent: Mapping[str, Message], keys: Sequence[str], weights: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Mean of the messages at some keys, in their dtypes.

    Args:
        sent: Messages by sender.
        keys: Keys of the mean.
        weights: Weight of each sender, of sum above 0; None for equal ones.
    """
    known = dict.fromkeys(sent, 1.0) if weights is None else weights
    total = sum(known[name] for name in sent)
    return {
        key: torch.stack([one[key] * (known[name] / total) for name, one in sent.items()]).sum(dim=0) for key in keys
    }


def samples(about: About, names: Sequence[str]) -> dict[str, float]:
    """Numbers of examples by name, as participants claim them.

    Args:
        about: Descriptions by name.
        names: Whose numbers.
    """
    return {name: float(about[name][SAMPLES]) for name in names}
