"""Values that travel between a method's participants and its server: messages, work done, results, and exchanges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import Tensor

Message: TypeAlias = Mapping[str, Tensor]
"""Tensors of any shapes by key, which one participant sends or receives for one method in one round."""

About: TypeAlias = Mapping[str, Message]
"""Descriptions of participants, by name."""

When: TypeAlias = Literal["start", "end"]
"""Moment of an exchange: before the local steps of a round, or after them."""


@dataclass(frozen=True)
class Exchange:
    """Moment at which messages go up, are combined and come down.

    Attributes:
        when: ``"start"``: before the local steps of a round; ``"end"``: after them, before the validation.
        who: ``"sampled"``: the participants that train in the round; ``"joined"``: everyone who has joined.
    """

    when: When = "end"
    who: Literal["sampled", "joined"] = "sampled"


@dataclass(frozen=True)
class Work:
    """Local work of a participant since the round began, counted by its own process.

    Attributes:
        landed: Optimizer steps that changed the weights; 0 at the start of a round.
        rates: Sum of the learning rates of those steps, of the first optimizer's first parameter group.
        samples: Number of training examples of the participant.
    """

    landed: int
    rates: float
    samples: int


class PerParticipant(dict[str, Message]):
    """Results that differ between participants: one message by participant's name."""


@dataclass(frozen=True)
class Combined:
    """Result of a group's messages.

    Attributes:
        state: Tensors by key for everyone in the group, or one message for each (:class:`PerParticipant`); None to send
            nothing and keep the last result.
        figures: Numbers to log as ``federation/KEY``, one or several by key; the mean over those of all groups is
            logged.
        stop: True to end training after this round, as when a budget is spent.
    """

    state: Message | PerParticipant | None
    figures: Mapping[str, float | Sequence[float]] = field(default_factory=dict)
    stop: bool = False


class MessageError(ValueError):
    """Raised for a message whose layout differs from its group's, or for an unusable result of a hook."""
