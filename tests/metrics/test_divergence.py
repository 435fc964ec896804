import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetfed_lightning.metrics import state_divergence

SEEDS = st.integers(0, 1000)


def make_states(seed: int, participants: int = 3, dtype: torch.dtype = torch.float32) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "weight": torch.randn(2, 3, generator=generator).to(dtype),
            "bias": torch.randn((), generator=generator).to(dtype),
            "steps": torch.tensor(index),
        }
        for index in range(participants)
    ]


def test_by_hand() -> None:
    # Mean (3, 4) of length 5; both are (0, 1) or (0, -1) off it, at distance 1: sqrt((1 + 1) / 2) / 5.
    states = [{"w": torch.tensor([3.0, 5.0])}, {"w": torch.tensor([3.0, 3.0])}]
    assert state_divergence(states) == pytest.approx(0.2)


def test_tensors_are_laid_end_to_end() -> None:
    whole = [{"w": torch.tensor([3.0, 5.0])}, {"w": torch.tensor([3.0, 3.0])}]
    parts = [{"a": state["w"][:1], "b": state["w"][1:]} for state in whole]
    assert state_divergence(parts) == pytest.approx(state_divergence(whole))


@given(SEEDS, st.integers(1, 5))
def test_agrees_with_numpy(seed: int, participants: int) -> None:
    states = make_states(seed, participants)
    rows = np.stack([np.append(s["weight"].numpy().ravel(), s["bias"].numpy()) for s in states]).astype(np.float64)
    mean = rows.mean(axis=0)
    expected = np.sqrt(((rows - mean) ** 2).sum(axis=1).mean()) / np.linalg.norm(mean)
    assert state_divergence(states) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(SEEDS, st.floats(0.01, 100))
def test_depends_on_neither_order_nor_scale(seed: int, factor: float) -> None:
    states = make_states(seed, dtype=torch.float64)
    divergence = state_divergence(states, keys=["weight"])
    scaled = [{"weight": factor * state["weight"]} for state in reversed(states)]
    assert state_divergence(scaled) == pytest.approx(divergence, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@given(seed=SEEDS, participants=st.integers(1, 9))
def test_equal_states_are_at_exactly_zero(dtype: torch.dtype, seed: int, participants: int) -> None:
    assert state_divergence(make_states(seed, dtype=dtype)[:1] * participants) == 0.0


def test_counters_are_passed_over() -> None:
    states = [{"steps": torch.tensor(1)}, {"steps": torch.tensor(9)}]
    assert state_divergence(states) == 0.0


def test_keys_choose_what_is_compared() -> None:
    states = [{"a": torch.tensor([1.0]), "b": torch.tensor([value])} for value in (1.0, 3.0)]
    assert state_divergence(states, keys=["a"]) == 0.0
    # Mean 2, both at distance 1.
    assert state_divergence(states, keys=iter(["b"])) == pytest.approx(0.5)
    assert state_divergence(states, keys=[]) == 0.0


def test_around_a_mean_of_zero_it_is_infinite() -> None:
    assert state_divergence([{"w": torch.tensor([value])} for value in (-1.0, 1.0)]) == math.inf


def test_what_is_not_finite_shows() -> None:
    assert math.isnan(state_divergence([{"w": torch.tensor([value])} for value in (1.0, math.nan)]))


def test_refuses_keys_that_nobody_has() -> None:
    with pytest.raises(ValueError, match=r"keys out of \['weight', 'bias', 'steps'\], got \['head'\]"):
        state_divergence(make_states(0), keys=["head", "bias"])


def test_refuses_states_that_disagree() -> None:
    with pytest.raises(ValueError, match=r"participant 1, key 'w'.*got \(1,\)"):
        state_divergence([{"w": torch.zeros(3)}, {"w": torch.zeros(1)}])


@given(SEEDS, st.integers(1, 5))
def test_around_a_centre_agrees_with_numpy(seed: int, participants: int) -> None:
    *states, centre = make_states(seed, participants + 1)
    rows = np.stack([np.append(s["weight"].numpy().ravel(), s["bias"].numpy()) for s in states]).astype(np.float64)
    around = np.append(centre["weight"].numpy().ravel(), centre["bias"].numpy()).astype(np.float64)
    expected = np.sqrt(((rows - around) ** 2).sum(axis=1).mean()) / np.linalg.norm(around)
    assert state_divergence(states, centre=centre) == pytest.approx(expected, rel=1e-5)


def test_states_at_the_centre_are_at_exactly_zero() -> None:
    states = make_states(3)[:1] * 3
    assert state_divergence(states, centre=states[0]) == 0.0


def test_a_centre_of_other_keys_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the same keys"):
        state_divergence(make_states(0), centre={"weight": torch.zeros(2, 3)})
