"""Who hosts whom, by law: everybody once, nobody much busier than another, shares that make up the batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetfed_lightning.strategies.placement import Placement, balanced, heaviest, rebalanced, share_of
from hetfed_lightning.strategies.ranks import Ranks

COSTS = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.floats(0, 1e6), min_size=1, max_size=12)
GROUPS = st.integers(1, 6)


@given(COSTS, GROUPS)
def test_everybody_has_one_host_and_no_group_carries_much_more(costs: dict[str, float], groups: int) -> None:
    hosts = balanced(costs, groups)
    assert list(hosts) == list(costs)
    assert set(hosts.values()) <= set(range(groups))
    # Whoever was put last on the busiest group went to the one with least: at most the mean, before it came.
    assert heaviest(costs, hosts) <= sum(costs.values()) / groups + max(costs.values()) + 1e-6


def test_the_longest_go_first() -> None:
    # 7 -> 0; 6 -> 1; 5 -> 1 would make 11, so 0 (12)? No: 1 has 6, 0 has 7, the least is 1: 11. Then 4 -> 0 (11).
    assert balanced({"d": 4, "c": 5, "b": 6, "a": 7}, 2) == {"d": 0, "c": 1, "b": 1, "a": 0}


def test_nothing_to_do_is_dealt_out_evenly() -> None:
    hosts = balanced(dict.fromkeys("abcd", 0.0), 2)
    assert sorted(hosts.values()) == [0, 0, 1, 1]


def test_nobody_moves_for_next_to_nothing() -> None:
    placement = Placement({"a": 0, "b": 1, "c": 1}, 2, 1)
    # The best division is 100 beside 99, the present one 102 beside 97: a gain of 2 in 102.
    assert rebalanced({"a": 97, "b": 99, "c": 3}, placement) is placement
    # 100 + 50 beside 10 becomes 100 beside 60.
    assert rebalanced({"a": 10, "b": 100, "c": 50}, placement).hosts == {"a": 1, "b": 0, "c": 1}


@given(st.integers(0, 50), st.integers(1, 8))
def test_shares_make_up_the_batch(size: int, replicas: int) -> None:
    shares = [share_of(size, replicas, replica) for replica in range(replicas)]
    assert [position for share in shares for position in share] == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(COSTS, st.integers(1, 3), st.integers(1, 3))
def test_one_rank_owns_and_one_measures_each(costs: dict[str, float], groups: int, replicas: int) -> None:
    placement = Placement(balanced(costs, groups), groups, replicas)
    for name in costs:
        ranks = placement.ranks_of(name)
        assert len(ranks) == replicas
        assert placement.owner_of(name) == ranks[0]
        assert placement.measurer_of(name) in ranks
        hosting = [rank for rank in range(groups * replicas) if name in placement.hosted_by(rank)]
        assert hosting == list(ranks)


def test_replicas_take_turns_in_measuring() -> None:
    placement = Placement(dict.fromkeys("abcd", 0), 1, 2)
    assert [placement.measurer_of(name) for name in "abcd"] == [0, 1, 0, 1]


@pytest.mark.parametrize(("rank", "group", "replica"), [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1)])
def test_a_group_is_of_consecutive_ranks(rank: int, group: int, replica: int) -> None:
    placement = Placement({"a": 0, "b": 1}, 2, 2)
    assert (placement.group_of(rank), placement.replica_of(rank)) == (group, replica)


class Noting(Ranks):
    """Times everybody but b."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[str, float]] = []

    def is_timed(self, name: str) -> bool:
        return name != "b"

    def note_seconds(self, name: str, seconds: float) -> None:
        self.noted.append((name, seconds))


def test_a_step_that_several_take_together_is_an_equal_part_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 16.0, 16.0])
    monkeypatch.setattr("hetfed_lightning.strategies.ranks.perf_counter", lambda: next(times))
    ranks = Noting()
    with ranks.timing(["a", "b", "c"], torch.device("cpu")):
        pass
    assert ranks.noted == [("a", 2.0), ("c", 2.0)]


def test_a_step_that_fails_is_no_time() -> None:
    ranks = Noting()
    with pytest.raises(ValueError, match="lost"), ranks.timing(["a"], torch.device("cpu")):
        raise ValueError("lost")
    assert ranks.noted == []
