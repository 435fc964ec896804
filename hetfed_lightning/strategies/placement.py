"""Placements: the ranks that train each participant, and their parts of a batch; pure functions of names and costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WORTHWHILE = 0.95
"""Largest load of the busiest group under a new placement, over that under the present one, for moving participants."""


@dataclass(frozen=True)
class Placement:
    """Assignment of participants to ranks.

    The ranks fall into ``groups`` of ``replicas`` consecutive ones, so that a group lies on one node if it can. A
    participant is hosted by one group, whose replicas split each of its batches.

    Args:
        hosts: Group of every participant, from 0.
        groups: Number of groups, at least 1.
        replicas: Ranks in a group, at least 1.
    """

    hosts: Mapping[str, int]
    groups: int
    replicas: int

    def group_of(self, rank: int) -> int:
        """Group of a rank, from 0."""
        return rank // self.replicas

    def replica_of(self, rank: int) -> int:
        """Place of a rank in its group, from 0."""
        return rank % self.replicas

    def ranks_of(self, name: str) -> range:
        """Ranks that train a participant."""
        first = self.hosts[name] * self.replicas
        return range(first, first + self.replicas)

    def owner_of(self, name: str) -> int:
        """First of the ranks that train a participant; its state there, buffers included, is the participant's."""
        return self.ranks_of(name)[0]

    def measurer_of(self, name: str) -> int:
        """Rank that evaluates a participant and runs it as a teacher; replicas of a group take turns."""
        ranks = self.ranks_of(name)
        together = [other for other, group in self.hosts.items() if group == self.hosts[name]]
        return ranks[together.index(name) % self.replicas]

    def hosted_by(self, rank: int) -> list[str]:
        """Participants that a rank trains, in order."""
        return [name for name, group in self.hosts.items() if group == self.group_of(rank)]


def balanced(costs: Mapping[str, float], groups: int) -> dict[str, int]:
    """Group of every participant such that loads are nearly equal.

    Participants are taken by descending cost, each for the group with the least load so far. Ties keep their order, so
    that every rank computes the same. The busiest group has at most 4/3 - 1/(3 groups) of its load under the best
    division.

    Args:
        costs: Cost of a round of each participant, at least 0, in any one unit.
        groups: Number of groups, at least 1.

    Reference:
        Graham (1969), Bounds on Multiprocessing Timing Anomalies, theorem 2.
    """
    loads = [0.0] * groups
    counts = [0] * groups
    hosts: dict[str, int] = {}
    for name in sorted(costs, key=lambda name: -costs[name]):  # A stable sort.
        # Participants without cost are dealt out by number.
        group = min(range(groups), key=lambda group: (loads[group], counts[group]))
        hosts[name] = group
        loads[group] += costs[name]
        counts[group] += 1
    return {name: hosts[name] for name in costs}


def heaviest(costs: Mapping[str, float], hosts: Mapping[str, int]) -> float:
    """Load of the busiest group, in the unit of the costs.

    Args:
        costs: Cost of a round of each participant.
        hosts: Group of each participant.
    """
    loads: dict[int, float] = {}
    for name, group in hosts.items():
        loads[group] = loads.get(group, 0.0) + costs[name]
    return max(loads.values(), default=0.0)


def rebalanced(costs: Mapping[str, float], placement: Placement) -> Placement:
    """Placement that balances ``costs``, or the present one if moving participants would gain next to nothing.

    Args:
        costs: Cost of a round of each participant, at least 0, in any one unit.
        placement: The present placement.
    """
    hosts = balanced(costs, placement.groups)
    if heaviest(costs, hosts) > WORTHWHILE * heaviest(costs, placement.hosts):
        return placement
    return Placement(hosts, placement.groups, placement.replicas)


def share_of(size: int, replicas: int, replica: int) -> range:
    """Positions in a batch of one replica's part: consecutive, in sizes that differ by at most 1 between replicas.

    Args:
        size: Number of examples in the batch.
        replicas: Number of replicas, at least 1.
        replica: Replica of the part, from 0; the first ones take the remainder.
    """
    least, over = divmod(size, replicas)
    start = replica * least + min(replica, over)
    return range(start, start + least + (replica < over))
