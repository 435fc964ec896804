"""Which process hosts whom, and which part of a batch is whose: pure functions of names, costs and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WORTHWHILE = 0.95
"""A new layout replaces one in use if its busiest group has at most this share of the load of the present one."""


@dataclass(frozen=True)
class Layout:
    """Who is trained by which ranks.

    The ranks fall into ``groups`` of ``replicas`` consecutive ones (so that a group lies on one node where it can).
    A participant is hosted by one group, whose replicas split each of its batches.

    Args:
        hosts: Group of every participant, from 0.
        groups: Number of groups, at least 1.
        replicas: Ranks in a group, at least 1.
    """

    hosts: Mapping[str, int]
    groups: int
    replicas: int

    def group_of(self, rank: int) -> int:
        """The group that a rank belongs to."""
        return rank // self.replicas

    def replica_of(self, rank: int) -> int:
        """A rank's place in its group, from 0."""
        return rank % self.replicas

    def ranks_of(self, name: str) -> range:
        """The ranks that train a participant."""
        first = self.hosts[name] * self.replicas
        return range(first, first + self.replicas)

    def owner_of(self, name: str) -> int:
        """The first of these: the rank whose state, buffers included, is the participant's."""
        return self.ranks_of(name)[0]

    def measurer_of(self, name: str) -> int:
        """The rank that evaluates a participant, and asks it as a teacher: a group's replicas take turns."""
        ranks = self.ranks_of(name)
        together = [other for other, group in self.hosts.items() if group == self.hosts[name]]
        return ranks[together.index(name) % self.replicas]

    def hosted_by(self, rank: int) -> list[str]:
        """Participants that a rank trains, in order."""
        return [name for name, group in self.hosts.items() if group == self.group_of(rank)]


def balanced(costs: Mapping[str, float], groups: int) -> dict[str, int]:
    """Group of every participant such that no group has much more to do than another.

    The longest goes first, to the group that has least so far; equal ones keep their order, so that every rank finds
    the same. The busiest group then has at most 4/3 - 1/(3 groups) of the load that the best division would give it.

    Args:
        costs: What a round of each participant takes, at least 0, in any one unit.
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
    """Load of the busiest group."""
    loads: dict[int, float] = {}
    for name, group in hosts.items():
        loads[group] = loads.get(group, 0.0) + costs[name]
    return max(loads.values(), default=0.0)


def rebalanced(costs: Mapping[str, float], layout: Layout) -> Layout:
    """The layout that ``costs`` ask for, or the same one where moving participants would gain next to nothing."""
    hosts = balanced(costs, layout.groups)
    if heaviest(costs, hosts) > WORTHWHILE * heaviest(costs, layout.hosts):
        return layout
    return Layout(hosts, layout.groups, layout.replicas)


def share_of(size: int, replicas: int, replica: int) -> range:
    """Positions in a batch that are a replica's: consecutive, together the whole, in sizes that differ by at most 1.

    Args:
        size: Examples in the batch.
        replicas: Number of replicas, at least 1.
        replica: Whose share, from 0; the first ones take what is over.
    """
    least, over = divmod(size, replicas)
    start = replica * least + min(replica, over)
    return range(start, start + least + (replica < over))
