"""Who takes part in which round, found once a round: every batch asks, and everything that happens at a round's end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import lightning as L
from torch import nn, randperm

from hetfed_lightning.participants.participant import STUDENT
from hetfed_lightning.seeding import stream_generator

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant


class Roster:
    """The participants of a round by name, in their order.

    In a run it remembers the last round that it was asked for; when a participant joins and leaves is then looked at
    once a round. A copy of it remembers nothing.
    """

    def __init__(self) -> None:
        self._remembers = False
        self._joined: tuple[int, list[str], list[str]] | None = None
        self._active: tuple[tuple[int, float, int], list[str]] | None = None

    def __reduce__(self) -> tuple[type[Roster], tuple[()]]:
        """Nothing for a copy to remember."""
        return Roster, ()

    def begin(self) -> None:
        """Remember from now on."""
        self._joined = self._active = None
        self._remembers = True

    def end(self) -> None:
        """Look at the participants whenever asked."""
        self._remembers = False

    def joined(self, members: nn.ModuleDict, round_index: int) -> list[str]:
        """Participants that have joined by a round and have not left."""
        return list(self._look(members, round_index)[1])

    def newcomers(self, members: nn.ModuleDict, round_index: int) -> list[str]:
        """Participants whose first round it is, later than the first of all."""
        return list(self._look(members, round_index)[2])

    def _look(self, members: nn.ModuleDict, round_index: int) -> tuple[int, list[str], list[str]]:
        if self._joined is None or self._joined[0] != round_index or not self._remembers:
            here = {
                name: one.joins_at
                for name, participant in members.items()
                if (one := cast("Participant", participant)).is_member(round_index)
            }
            self._joined = round_index, list(here), [name for name in here if here[name] == round_index > 0]
        return self._joined

    def active(self, members: nn.ModuleDict, round_index: int, participation: float, seed: int) -> list[str]:
        """Who trains in a round: of those who have joined a sample of the share ``participation``, at least one.

        Args:
            members: All participants.
            round_index: The round.
            participation: A fraction in (0, 1].
            seed: The federation's; with the round it names the stream that the sample is drawn from.
        """
        if participation == 1:
            return self.joined(members, round_index)
        asked = round_index, participation, seed
        if self._active is None or self._active[0] != asked or not self._remembers:
            self._active = asked, sampled(self.joined(members, round_index), round_index, participation, seed)
        return list(self._active[1])


def sampled(names: Sequence[str], round_index: int, participation: float, seed: int) -> list[str]:
    """Who trains in a round: the share ``participation`` of ``names``, at least one, in their order.

    Args:
        names: Those who have joined, at least one.
        round_index: The round.
        participation: A fraction in (0, 1].
        seed: The federation's; with the round it names the stream that the sample is drawn from.
    """
    if participation == 1:
        return list(names)
    count = max(1, round(participation * len(names)))
    order = randperm(len(names), generator=stream_generator(seed, "participation", round_index))
    return [names[index] for index in sorted(order[:count].tolist())]


class KeepsRoster(L.LightningModule):
    """A LightningModule of participants that knows who of them takes part in a round."""

    participants: nn.ModuleDict
    student: Participant | None
    participation: float
    seed: int

    def __init__(self) -> None:
        super().__init__()
        self.roster = Roster()

    def joined(self, round_index: int) -> list[str]:
        """Participants that have joined by a round and have not left."""
        return self.roster.joined(self.participants, round_index)

    def newcomers(self, round_index: int) -> list[str]:
        """Participants whose first round this is, later than the first of all."""
        return self.roster.newcomers(self.participants, round_index)

    def active_names(self, round_index: int) -> list[str]:
        """Participants that train in a round: those joined, or the sample of them that ``participation`` asks for."""
        return self.roster.active(self.participants, round_index, self.participation, self.seed)

    def trained(self, round_index: int) -> list[str]:
        """Those whose weights a round changes: who is active in it, and the student if there is one."""
        return self.active_names(round_index) + ([] if self.student is None else [STUDENT])
