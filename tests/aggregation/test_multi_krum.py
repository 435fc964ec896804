import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from hetfed_lightning.aggregation import MultiKrum, State, distances
from hetfed_lightning.aggregation.distances import pairwise_squared_distances
from hetfed_lightning.aggregation.multi_krum import krum_scores

LINE = [0.0, 1.0, 3.0, 6.0, 100.0]


def on_a_line(*values: float) -> list[State]:
    return [{"w": torch.tensor([value])} for value in values]


def by_the_paper(vectors: NDArray[np.float64], faulty: int, keep: int) -> NDArray[np.float64]:
    """Multi-Krum as Blanchard et al. write it down, one pair after another."""
    scores = []
    for k, own in enumerate(vectors):
        squared = sorted(float(np.sum((own - other) ** 2)) for j, other in enumerate(vectors) if j != k)
        scores.append(sum(squared[: len(vectors) - faulty - 2]))
    best = sorted(range(len(vectors)), key=lambda k: scores[k])[:keep]
    mean: NDArray[np.float64] = vectors[best].mean(axis=0)
    return mean


def test_by_hand() -> None:
    # K = 5, f = 1: the two nearest. 0: 1 + 9 = 10. 1: 1 + 4 = 5. 3: 4 + 9 = 13. 6: 9 + 25 = 34. 100: 94^2 + 97^2.
    scores = krum_scores(pairwise_squared_distances(on_a_line(*LINE)), faulty=1)
    assert scores.tolist() == [10.0, 5.0, 13.0, 34.0, 94.0**2 + 97.0**2]
    states, weights = on_a_line(*LINE), torch.ones(5)
    assert MultiKrum(0.2).ranking(states) == [1, 0, 2, 3, 4]
    assert MultiKrum(0.2, keep=1)(states, weights)["w"].item() == 1.0  # Krum
    assert MultiKrum(0.2, keep=2)(states, weights)["w"].item() == 0.5
    assert MultiKrum(0.2)(states, weights)["w"].item() == 2.5  # K - f = 4 of them
    assert MultiKrum(0.2, keep=9)(states, weights)["w"].item() == 2.5  # never more than that


def test_distances_are_those_of_whole_states() -> None:
    # Squared, over both tensors: 3^2 + 4^2; the counter is none of them.
    states = [{"a": torch.tensor([0.0]), "b": torch.zeros(1, 1), "n": torch.tensor(1)},
              {"a": torch.tensor([3.0]), "b": torch.full((1, 1), 4.0), "n": torch.tensor(7)}]  # fmt: skip
    assert pairwise_squared_distances(states).tolist() == [[0.0, 25.0], [25.0, 0.0]]


@given(st.integers(5, 12), st.integers(1, 5), st.integers(0, 2), st.integers(0, 10**6))
def test_agrees_with_the_paper_written_down(count: int, size: int, faulty: int, seed: int) -> None:
    rule = MultiKrum(faulty / count, keep=1 + seed % (count - faulty))
    if count < rule.least_participants():
        return
    vectors = np.random.default_rng(seed).normal(size=(count, size))
    states = [{"w": torch.from_numpy(vector)} for vector in vectors]
    expected = by_the_paper(vectors, rule.tolerated(count), rule.keep or 0)
    np.testing.assert_allclose(rule(states, torch.ones(count))["w"].numpy(), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("share", "participants", "faulty"),
    [
        (0.2, 5, 1),
        (0.2, 6, 1),  # ceil(1.2) = 2 would need 7
        (0.2, 7, 2),
        (0.2, 10, 2),
        (0.25, 10, 3),  # ceil(2.5), and 2 * 3 + 3 = 9
        (0.3, 8, 2),
        (0.14, 50, 7),  # 0.14 * 50 is 7.000000000000001
        (0.0, 3, 0),
        (0.4, 15, 6),
    ],
)
def test_how_many_are_stood(share: float, participants: int, faulty: int) -> None:
    assert MultiKrum(share).tolerated(participants) == faulty


@given(st.floats(0.01, 0.49), st.integers(1, 400))
def test_the_papers_condition_holds_or_they_are_too_few(share: float, participants: int) -> None:
    rule = MultiKrum(share)
    if participants < 5:
        with pytest.raises(ValueError, match=f"at least 5 .*got {participants}"):
            rule.tolerated(participants)
        return
    faulty = rule.tolerated(participants)
    assert participants >= 2 * faulty + 3
    assert 1 <= faulty <= math.ceil(share * participants)
    if participants >= rule.least_participants():
        assert faulty >= math.floor(share * participants)


def test_those_who_are_left_out_do_not_end_the_run() -> None:
    # 3 of 10 send NaN and are left out before: of 7, two may still be faulty.
    assert MultiKrum(0.3).least_participants() == 8
    assert MultiKrum(0.3).tolerated(7) == 2


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=7, max_size=7, unique=True), st.floats(-1e3, 1e3, width=32))
def test_moves_with_the_states(values: list[float], shift: float) -> None:
    # Distances of states are those of updates: where the origin lies makes no difference.
    states, weights = on_a_line(*values), torch.ones(7)
    moved = [{"w": state["w"].double() + shift} for state in states]
    doubled = [{"w": state["w"].double()} for state in states]
    torch.testing.assert_close(MultiKrum()(moved, weights)["w"], MultiKrum()(doubled, weights)["w"] + shift)


def test_of_equal_scores_the_first_wins_as_in_the_paper() -> None:
    for first, *_ in permutations([0.0, 1.0, 2.0, 3.0]):
        ranking = MultiKrum(0.0).ranking(on_a_line(first, first + 1, first + 2, first + 3))
        assert ranking == [1, 2, 0, 3]


@pytest.mark.parametrize("lie", [1e30, math.inf, -math.inf, math.nan])
def test_liars_beyond_reach_are_the_worst(lie: float) -> None:
    states = on_a_line(1.0, lie, 2.0, 3.0, lie, 2.5, 1.5)
    assert set(MultiKrum(0.2).ranking(states)[-2:]) == {1, 4}
    assert 1.0 <= MultiKrum(0.2, keep=5)(states, torch.ones(7))["w"].item() <= 3.0


def test_weights_have_no_effect() -> None:
    claims = torch.tensor([0.0, 0.0, 0.0, 0.0, 1e12])
    assert MultiKrum(0.2)(on_a_line(*LINE), claims)["w"].item() == 2.5


def test_counters_are_those_of_the_kept() -> None:
    states = [
        {"w": torch.tensor([value]), "steps": torch.tensor(steps)} for value, steps in zip(LINE, range(5), strict=True)
    ]
    assert MultiKrum(0.2)(states, torch.ones(5))["steps"].item() == 3


def test_blocks_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    states = [{"w": torch.randn(5, 7, generator=generator), "v": torch.randn(3, generator=generator)} for _ in range(4)]
    whole = torch.stack([torch.cat([state["w"].flatten(), state["v"]]) for state in states]).double()
    expected = (whole[:, None] - whole).square().sum(dim=-1)
    monkeypatch.setattr(distances, "_VALUES_PER_BLOCK", 12)  # 3 coordinates at a time
    torch.testing.assert_close(pairwise_squared_distances(states), expected)


def test_a_float32_gram_matrix_would_not_see_these() -> None:
    # Two vectors of length 10,000 that are 1 apart: |a|^2 + |b|^2 - 2 ab is 0 or 8 in float32.
    base = torch.full((100,), 1000.0)
    other = base + torch.eye(100)[0]
    found: Tensor = pairwise_squared_distances([{"w": base}, {"w": other}])[0, 1]
    assert found.item() == 1.0
    assert float(base @ base + other @ other - 2 * (base @ other)) != 1.0


def test_refuses_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"faulty in \[0, 0.5\).*got 0.5"):
        MultiKrum(0.5)
    with pytest.raises(ValueError, match=r"keep of at least 1.*got 0: use 1 for Krum"):
        MultiKrum(keep=0)


def test_refuses_too_few_with_the_numbers() -> None:
    # K = 4: for one faulty 2 * 1 + 3 = 5 are needed.
    with pytest.raises(ValueError, match=r"at least 2 \* 1 \+ 3 = 5 participants.*stand 1 faulty ones, got 4"):
        krum_scores(torch.zeros(4, 4), 1)
    with pytest.raises(ValueError, match=r"MultiKrum needs at least 5 participants, 2 \* 1 \+ 3, .*got 4"):
        MultiKrum(0.25)(on_a_line(1, 2, 3, 4), torch.ones(4))
    with pytest.raises(ValueError, match=r"MultiKrum needs at least 3 participants, 2 \* 0 \+ 3, .*got 2"):
        MultiKrum(0.0)(on_a_line(1, 2), torch.ones(2))
