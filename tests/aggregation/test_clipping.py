"""Clipping of updates: by hand, by law, by refusal."""

import copy
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hetfed_lightning.aggregation import clip_updates, weighted_mean
from hetfed_lightning.aggregation.clipping import update_norm

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def exact_square_norm(state: dict[str, Tensor], previous: dict[str, Tensor]) -> Fraction:
    """The squared norm of an update in exact arithmetic."""
    return sum(
        (
            (Fraction(float(new)) - Fraction(float(old))) ** 2
            for key in state
            for new, old in zip(state[key].flatten(), previous[key].flatten(), strict=True)
        ),
        Fraction(0),
    )


def test_by_hand_over_all_tensors_together() -> None:
    previous = {"weight": torch.tensor([[1.0, 1.0]]), "bias": torch.tensor([0.0])}
    # The update is (2, 0) and 1.5 * ..., norm sqrt(4 + 2.25) = 2.5; a bound of 1.25 halves it.
    state = {"weight": torch.tensor([[3.0, 1.0]]), "bias": torch.tensor([1.5])}
    assert update_norm(state, previous) == 2.5
    (clipped,) = clip_updates([state], previous, 1.25)
    torch.testing.assert_close(clipped, {"weight": torch.tensor([[2.0, 1.0]]), "bias": torch.tensor([0.75])})


def test_what_is_within_the_bound_comes_back_itself() -> None:
    previous = {"weight": torch.zeros(3)}
    small, large = {"weight": torch.tensor([0.0, 3.0, 4.0])}, {"weight": torch.full((3,), 100.0)}
    first, second = clip_updates([small, large], previous, 5.0)
    assert first is small
    assert second is not large


@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(DTYPES),
    offset=st.sampled_from([0.0, 1.0, 1000.0]),
    max_norm=st.floats(1e-3, 10),
)
@settings(max_examples=60, deadline=None)
def test_the_bound_holds_in_exact_arithmetic(seed: int, dtype: torch.dtype, offset: float, max_norm: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    previous = {key: (torch.randn(7, generator=generator) + offset).to(dtype) for key in ("one", "other")}
    state = {key: (tensor + 3 * torch.randn(7, generator=generator)).to(dtype) for key, tensor in previous.items()}
    before = copy.deepcopy(state)
    (clipped,) = clip_updates([state], previous, max_norm)
    assert exact_square_norm(dict(clipped), previous) <= Fraction(max_norm) ** 2
    assert all(torch.equal(state[key], before[key]) for key in state)
    for key, tensor in clipped.items():
        assert (tensor.shape, tensor.dtype) == (state[key].shape, state[key].dtype)
        # No coordinate turns around.
        assert bool(((tensor - previous[key]).double() * (state[key] - previous[key]).double() >= 0).all())


def test_the_direction_is_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    previous, state = ({"weight": torch.randn(1000, generator=generator).double()} for _ in range(2))
    (clipped,) = clip_updates([state], previous, 0.5)
    update, wanted = clipped["weight"] - previous["weight"], state["weight"] - previous["weight"]
    assert float(torch.cosine_similarity(update, wanted, dim=0)) == pytest.approx(1.0, abs=1e-12)
    assert float(update.norm()) == pytest.approx(0.5, rel=1e-9)


def test_counters_pass() -> None:
    previous = {"weight": torch.zeros(2), "steps": torch.tensor(3), "seen": torch.tensor(False)}
    state = {"weight": torch.full((2,), 9.0), "steps": torch.tensor(70), "seen": torch.tensor(True)}
    (clipped,) = clip_updates([state], previous, 1.0)
    assert clipped["steps"] == 70
    assert bool(clipped["seen"])


def test_one_that_scales_its_update_weighs_as_much_as_anybody() -> None:
    generator = torch.Generator().manual_seed(0)
    previous = {"weight": torch.zeros(50)}
    honest = [{"weight": torch.randn(50, generator=generator)} for _ in range(9)]
    boosted = {"weight": 100 * torch.randn(50, generator=generator)}
    moved = weighted_mean(clip_updates([*honest, boosted], previous, 1.0), torch.ones(10))
    alone = weighted_mean(clip_updates(honest, previous, 1.0), torch.ones(9))
    assert float((moved["weight"] - alone["weight"]).norm()) <= 2 / 10


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.inf, math.nan, True, "1"])
def test_a_bound_that_is_none_is_refused(max_norm: float) -> None:
    with pytest.raises(ValueError, match="max_norm: expected a finite norm above 0"):
        clip_updates([], {}, max_norm)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_an_update_that_is_not_finite_is_refused_by_name(value: float) -> None:
    previous = {"weight": torch.zeros(2)}
    states = [{"weight": torch.ones(2)}, {"weight": torch.tensor([1.0, value])}]
    with pytest.raises(ValueError, match=r"participant 'b': expected a finite update.*leave it out"):
        clip_updates(states, previous, 1.0, ["a", "b"])
    with pytest.raises(ValueError, match="participant 1: "):
        clip_updates(states, previous, 1.0)
