"""Noise by its distribution, and the mean that it is added to."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from hetfed_lightning.privacy import private_mean, private_noise, seeded_noise
from hetfed_lightning.privacy.noise import random_positions

pytestmark = pytest.mark.promise("private")

DRAWS = 20_000
RARE = 1e-6
"""Chance at which a test of a right sampler fails: its numbers are different in each run."""


def zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.float64)


@pytest.mark.parametrize("noise", [private_noise, lambda count: seeded_noise(count, 3)], ids=["private", "seeded"])
def test_it_is_standard_normal(noise: object) -> None:
    drawn: Tensor = noise(DRAWS)  # type: ignore[operator]
    assert drawn.dtype == torch.float64
    # The standard deviation of a standard deviation of 20,000 draws is 0.5 %; 3 % are six of them.
    assert abs(float(drawn.std()) - 1) < 0.03
    assert abs(float(drawn.mean())) < 5 / math.sqrt(DRAWS)
    assert stats.kstest(drawn.numpy(), "norm").pvalue > RARE
    neighbours = torch.corrcoef(torch.stack([drawn[:-1], drawn[1:]]))[0, 1]
    assert abs(float(neighbours)) < 5 / math.sqrt(DRAWS)


def test_no_seed_repeats_it() -> None:
    torch.manual_seed(0)
    first = private_noise(8)
    torch.manual_seed(0)
    assert not torch.equal(first, private_noise(8))
    assert torch.equal(seeded_noise(8, 1), seeded_noise(8, 1))


@pytest.mark.parametrize("count", [0, 1, 3, (1 << 18) + 1])
def test_any_number_of_draws(count: int) -> None:
    drawn = private_noise(count)
    assert drawn.shape == (count,)
    assert bool(torch.isfinite(drawn).all())


def test_positions_are_a_poisson_sample() -> None:
    sizes = torch.tensor([len(random_positions(200, 0.1)) for _ in range(500)], dtype=torch.float64)
    # Binomial: mean 20 and variance 18. The mean of 500 deviates by 0.19, the variance by 1.1.
    assert abs(float(sizes.mean()) - 20) < 5 * 0.19
    assert abs(float(sizes.var()) - 18) < 5 * 1.2
    assert len(random_positions(200, 0.0)) == 0
    assert random_positions(5, 1.0).tolist() == [0, 1, 2, 3, 4]


# The mean of updates


def test_the_mean_by_hand() -> None:
    previous = {"weight": torch.tensor([1.0, 1.0])}
    # Updates (3, 4) of norm 5, clipped to (0.6, 0.8), and (0.2, 0): their sum over 4 expected is (0.2, 0.2).
    states = [{"weight": torch.tensor([4.0, 5.0])}, {"weight": torch.tensor([1.2, 1.0])}]
    released = private_mean(states, previous, participants=4, max_norm=1.0, noise_multiplier=1.0, noise=zeros)
    torch.testing.assert_close(released["weight"], torch.tensor([1.2, 1.2]))


def test_who_is_left_out_counts_as_no_update() -> None:
    previous, state = {"weight": torch.zeros(2)}, {"weight": torch.tensor([0.3, 0.0])}
    settings = {"max_norm": 1.0, "noise_multiplier": 1.0, "noise": zeros}
    with_two = private_mean([state, previous], previous, participants=2, **settings)  # type: ignore[arg-type]
    with_one = private_mean([state], previous, participants=2, **settings)  # type: ignore[arg-type]
    assert torch.equal(with_two["weight"], with_one["weight"])
    assert torch.equal(private_mean([], previous, participants=2, **settings)["weight"], previous["weight"])  # type: ignore[arg-type]


def test_the_effective_multiplier_is_the_one_asked_for() -> None:
    # Largest influence of one of K on the mean: C / K. The noise on it has to be z times that, however many there are.
    for participants in (1, 5, 20):
        previous = {"weight": torch.zeros(DRAWS, dtype=torch.float64)}
        released = private_mean(
            [previous] * participants,
            previous,
            participants=participants,
            max_norm=0.4,
            noise_multiplier=2.5,
            noise=private_noise,
        )
        assert float(released["weight"].std()) / (0.4 / participants) == pytest.approx(2.5, rel=0.03)


def test_one_participant_moves_the_sum_by_the_norm_at_most() -> None:
    generator = torch.Generator().manual_seed(0)
    previous = {key: torch.randn(40, generator=generator) for key in ("one", "other")}
    others = [{key: torch.randn(40, generator=generator) for key in previous} for _ in range(4)]
    settings = {"participants": 5, "max_norm": 0.7, "noise_multiplier": 1.0, "noise": zeros}
    without = private_mean(others, previous, **settings)  # type: ignore[arg-type]
    for scale in (0.1, 1.0, 1e6):
        liar = {key: scale * torch.randn(40, generator=generator) for key in previous}
        moved = private_mean([*others, liar], previous, **settings)  # type: ignore[arg-type]
        change = torch.cat([moved[key] - without[key] for key in previous])
        assert 5 * float(change.norm()) <= 0.7 * (1 + 1e-5)  # The release is rounded to float32.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    previous = {"weight": torch.zeros(3, 2, dtype=dtype), "scalar": torch.zeros((), dtype=dtype)}
    released = private_mean([], previous, participants=1, max_norm=1.0, noise_multiplier=1.0, noise=private_noise)
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in released.items()} == {
        key: (tensor.shape, dtype) for key, tensor in previous.items()
    }


def test_counters_and_too_many_states_are_refused() -> None:
    settings = {"max_norm": 1.0, "noise_multiplier": 1.0, "noise": zeros}
    with pytest.raises(ValueError, match=r"key 'steps': expected a floating-point tensor, got torch.int64"):
        private_mean([], {"steps": torch.tensor(3)}, participants=1, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected at most 1 states, got 2"):
        private_mean([{}, {}], {}, participants=1, **settings)  # type: ignore[arg-type]
