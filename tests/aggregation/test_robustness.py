"""Rules under attack: how far what they make lies from the honest, beside how far the honest ones' own mean does."""

import pytest
import torch
from torch import Tensor

from hetfed_lightning.aggregation import (
    AggregationFunction,
    AggregationRule,
    GeometricMedian,
    MultiKrum,
    State,
    TrimmedMean,
    check_states,
    clip_updates,
    coordinate_median,
    weighted_mean,
)
from scripts.attacking.attacks import Attack, Round, a_little, alie_z, gaussian, scaling, sign_flip
from tests.aggregation.test_every_rule import every_rule, make_states
from tests.conftest import Tally

PARTICIPANTS, FAULTY, SIZE = 10, 2, 1000
ROBUST: dict[str, AggregationFunction] = {
    "median": coordinate_median,
    "trimmed mean": TrimmedMean(0.2),
    "Multi-Krum": MultiKrum(0.2),
    "geometric median": GeometricMedian(),
}
CRUDE: dict[str, Attack] = {"sign flip": sign_flip, "x100": scaling, "Gaussian": gaussian}


def attacked(attack: Attack, seed: int) -> tuple[list[State], Tensor, Tensor]:
    """What 10 send, 2 of them attacking, the truth, and the mean of the honest.

    Every honest update is the truth, of standard deviation 1, and noise of its own of the same size.
    """
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(SIZE, generator=generator)
    own = truth + torch.randn(PARTICIPANTS, SIZE, generator=generator)
    honest, start = own[FAULTY:], torch.zeros(SIZE)
    sent = [attack(Round(one, start, honest, FAULTY, generator)) for one in own[:FAULTY]]
    return [{"w": vector} for vector in [*sent, *honest]], truth, honest.mean(dim=0)


def error(rule: AggregationFunction, attack: Attack, seed: int) -> float:
    """Distance from the truth, over that of the honest ones' mean."""
    states, truth, honest = attacked(attack, seed)
    made = rule(states, torch.ones(PARTICIPANTS))["w"]
    return float((made - truth).norm() / (honest - truth).norm())


def sign_flip_x10(seen: Round) -> Tensor:
    """The sign flip of those who mean it."""
    return seen.start - 10 * (seen.own - seen.start)


@pytest.mark.promise("robust")
@pytest.mark.parametrize("rule", ROBUST.values(), ids=ROBUST)
@pytest.mark.parametrize("attack", [*CRUDE.values(), sign_flip_x10], ids=[*CRUDE, "sign flip x10"])
def test_two_attackers_of_ten_are_stood(rule: AggregationFunction, attack: Attack, tally: Tally) -> None:
    errors = [error(rule, attack, seed) for seed in range(5)]
    tally(tried=len(errors), held=sum(found < 2 for found in errors))
    assert max(errors) < 2, errors


def test_the_mean_stands_none_of_them() -> None:
    assert error(weighted_mean, sign_flip, 0) > 1.2
    assert error(weighted_mean, sign_flip_x10, 0) > 4
    assert error(weighted_mean, scaling, 0) > 30


@pytest.mark.parametrize("rule", ROBUST.values(), ids=ROBUST)
def test_what_a_rule_costs_when_nobody_attacks(rule: AggregationFunction) -> None:
    # Of ten honest ones the best that a mean of eight can do is sqrt(10 / 8) = 1.12.
    states, truth, _ = attacked(lambda seen: seen.own, 0)
    ones = torch.ones(PARTICIPANTS)
    cost = (rule(states, ones)["w"] - truth).norm() / (weighted_mean(states, ones)["w"] - truth).norm()
    assert cost < 1.25


def test_a_little_is_enough() -> None:
    # One deviation from the mean: the two are closer to everybody than the honest are to each other. Krum takes them
    # for the best, and no rule comes closer to the truth than the plain mean does.
    def a_little_less(seen: Round) -> Tensor:
        return a_little(seen, 1.0)

    states, _, _ = attacked(a_little_less, 0)
    assert set(MultiKrum(0.2).ranking(states)[:FAULTY]) == set(range(FAULTY))
    errors = {name: error(rule, a_little_less, 0) for name, rule in ROBUST.items()}
    assert min(errors.values()) > 0.95 * error(weighted_mean, a_little_less, 0)


def test_how_little_is_enough() -> None:
    # K = 50, f = 12: s = 26 - 12 = 14, (50 - 12 - 14) / 38 = 0.632, and the normal distribution has that at 0.336.
    assert alie_z(50, 12) == pytest.approx(0.336, abs=1e-3)
    # K = 10, f = 2: s = 4, 4 / 8, and half lies below 0.
    assert alie_z(10, 2) == 0.0


@pytest.mark.promise("robust")
def test_a_clipped_update_moves_the_mean_no_further_than_the_bound() -> None:
    states, _, honest = attacked(scaling, 0)
    bound = float(honest.norm())
    clipped = weighted_mean(clip_updates(states, {"w": torch.zeros(SIZE)}, bound), torch.ones(PARTICIPANTS))["w"]
    assert float(clipped.norm()) <= bound


@pytest.mark.promise("far")
def test_a_far_outlier_among_a_million_coordinates_is_the_last(tally: Tally, full: bool) -> None:
    count, held = 20 if full else 3, 0
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        # Weights in common and small steps away from them: in float32, |a|^2 + |b|^2 - 2 ab is all rounding.
        common = torch.randn(1_000_000, generator=generator)
        noise = [1e-4 * torch.randn(1_000_000, generator=generator) for _ in range(7)]
        place = seed % 7
        noise[place] *= 10
        ranking = MultiKrum(0.2).ranking([{"w": common + one} for one in noise])
        held += ranking[-1] == place
    tally(tried=count, held=held)
    assert held == count


@pytest.mark.promise("broadcast")
@every_rule
@pytest.mark.parametrize("shape", [(1,), (1, 1), (), (4, 1), (1, 3), (3,), (4, 3, 1), (1, 4, 3), (3, 4)])
def test_nothing_is_broadcast(rule: AggregationFunction, shape: tuple[int, ...], tally: Tally) -> None:
    held = 0
    for at_fault in range(1, 7):
        states: list[dict[str, Tensor]] = [{"w": torch.ones(4, 3)} for _ in range(7)]
        states[at_fault]["w"] = torch.ones(shape)
        with pytest.raises(ValueError, match=rf"'p{at_fault}', key 'w': expected shape \(4, 3\)"):
            check_states(states, torch.ones(7), [f"p{index}" for index in range(7)])
        with pytest.raises(ValueError, match=rf"participant {at_fault}, key 'w': expected shape \(4, 3\)"):
            rule(states, torch.ones(7))
        held += 1
    tally(tried=6, held=held)


@pytest.mark.promise("broadcast")
@every_rule
@pytest.mark.parametrize("shape", [(), (1,), (6,), (7, 1), (1, 7)])
def test_no_weights_are_broadcast(rule: AggregationFunction, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"weights of shape \(7,\)"):
        rule(make_states(), torch.ones(shape))


@pytest.mark.promise("counters")
@every_rule
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_counters_stay_integers(rule: AggregationFunction, dtype: torch.dtype) -> None:
    # A mean of 7 and 10 is 8.5.
    counts = [7, 10, 7, 10, 7]
    states = [
        {"w": torch.tensor([float(k)]), "steps": torch.tensor(count, dtype=dtype)} for k, count in enumerate(counts)
    ]
    made = rule(states, torch.ones(5))["steps"]
    assert made.dtype == dtype
    assert made.item() == 10


@pytest.mark.promise("counters")
@every_rule
def test_a_large_counter_keeps_its_last_digit(rule: AggregationFunction) -> None:
    # 2^53 + 1 has no float64.
    states = [{"w": torch.zeros(1), "steps": torch.tensor(2**53 + 1)} for _ in range(5)]
    assert rule(states, torch.ones(5))["steps"].item() == 2**53 + 1


def test_rules_with_settings_are_all_here() -> None:
    kinds = {type(rule) for rule in ROBUST.values() if isinstance(rule, AggregationRule)}
    assert kinds == set(AggregationRule.__subclasses__())
