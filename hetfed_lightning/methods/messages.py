"""Values that a method's participants and its server exchange: messages, work done, results, and when they travel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import Tensor

Message: TypeAlias = Mapping[str, Tensor]
"""Tensors by key: what one participant sends or receives for one method in one round."""


@dataclass(frozen=True)
class Exchange:
    """A moment at which messages go up, are combined and come down.

    Attributes:
        when: ``"start"``: before the local steps of a round; ``"end"``: after them, before the validation.
        who: ``"sampled"``: the participants that train in the round; ``"joined"``: everyone who has joined.
    """

    when: Literal["start", "end"] = "end"
    who: Literal["sampled", "joined"] = "sampled"


@dataclass(frozen=True)
class Work:
    """A participant's local work since the round began, as its own process counted it.

    Attributes:
        landed: Optimizer steps that changed the weights; 0 at the start of a round.
        rates: Sum of the learning rates of those steps, of the first optimizer's first parameter group.
        samples: Training examples of the participant.
    """

    landed: int
    rates: float
    samples: int


class PerParticipant(dict[str, Message]):
    """Results that differ between participants: the message for each, by name."""


@dataclass(frozen=True)
class Combined:
    """Result of a group's messages.

    Attributes:
        state: Tensors that everyone in the group receives, or one message for each (:class:`PerParticipant`); None
            where nobody receives anything and the last result stays.
        figures: Numbers to log as ``federation/KEY``, one or several each; the mean over those of all groups is logged.
        stop: Whether training ends after this round, as when a budget is spent.
    """

    state: Message | PerParticipant | None
    figures: Mapping[str, float | Sequence[float]] = field(default_factory=dict)
    stop: bool = False


class MessageError(ValueError):
    """A message of another layout than the method's group agreed on, or an unusable result of ``combine``."""
