"""Cohort of a round: joined participants, newcomers, and the sample that trains, looked up once a round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from torch import nn, randperm

from hetfed_lightning.seeding import stream_generator

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant


class Roster:
    """Names of a round's participants, in the order of the federation.

    In a run it caches the last round that it was asked for, so that membership is checked once a round and not once a
    batch. A copy has no cache.
    """

    def __init__(self) -> None:
        self._remembers = False
        self._joined: tuple[int, list[str], list[str]] | None = None
        self._active: tuple[tuple[int, float, int], list[str]] | None = None

    def __reduce__(self) -> tuple[type[Roster], tuple[()]]:
        """Arguments of a copy, which has no cache."""
        return Roster, ()

    def begin(self) -> None:
        """Cache rounds from now on."""
        self._joined = self._active = None
        self._remembers = True

    def end(self) -> None:
        """Check membership at every call from now on."""
        self._remembers = False

    def joined(self, members: nn.ModuleDict, round_index: int) -> list[str]:
        """Names of participants that have joined by a round and have not left.

        Args:
            members: All participants.
            round_index: Index of the round, from 0.
        """
        return list(self._look(members, round_index)[1])

    def newcomers(self, members: nn.ModuleDict, round_index: int) -> list[str]:
        """Names of participants whose first round it is, later than the first of all.

        Args:
            members: All participants.
            round_index: Index of the round, from 0.
        """
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
        """Names of the participants that train in a round: a sample of the joined ones, at least one.

        Args:
            members: All participants.
            round_index: Index of the round, from 0.
            participation: Fraction of the joined participants in the sample, in (0, 1].
            seed: Seed of the federation; with the round it seeds the sample.
        """
        if participation == 1:
            return self.joined(members, round_index)
        asked = round_index, participation, seed
        if self._active is None or self._active[0] != asked or not self._remembers:
            self._active = asked, sampled(self.joined(members, round_index), round_index, participation, seed)
        return list(self._active[1])


def sampled(names: Sequence[str], round_index: int, participation: float, seed: int) -> list[str]:
    """Sample of names that trains in a round, at least one, in their order.

    Args:
        names: Names of the joined participants, at least one.
        round_index: Index of the round, from 0.
        participation: Fraction of the names in the sample, in (0, 1].
        seed: Seed of the federation; with the round it seeds the sample.
    """
    if participation == 1:
        return list(names)
    count = max(1, round(participation * len(names)))
    order = randperm(len(names), generator=stream_generator(seed, "participation", round_index))
    return [names[index] for index in sorted(order[:count].tolist())]
