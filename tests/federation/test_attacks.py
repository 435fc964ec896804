"""Attackers in a federation that trains on real digits: what rules stand, and who is told."""

import logging

import pytest

from hetfed_lightning.aggregation import (
    AggregationFunction,
    GeometricMedian,
    MultiKrum,
    TrimmedMean,
    coordinate_median,
    weighted_mean,
)
from scripts.attacking.attacks import gaussian, not_a_number, own_work, scaling, sign_flip
from scripts.attacking.digits import accuracy_under
from tests.conftest import Tally

CRUDE = (sign_flip, scaling, gaussian)
RULES: dict[str, AggregationFunction] = {
    "geometric median": GeometricMedian(),
    "median": coordinate_median,
    "trimmed mean": TrimmedMean(0.2),
    "Multi-Krum": MultiKrum(0.2),
}


@pytest.mark.promise("robust")
def test_accuracy_stays_within_two_points_of_that_without_attack(full: bool, tally: Tally) -> None:
    seeds = range(5 if full else 1)
    rules = RULES if full else {"geometric median": RULES["geometric median"]}
    clean = sum(accuracy_under(own_work, weighted_mean, "iid", seed, 0) for seed in seeds) / len(seeds)
    lost = {
        (name, attack.__name__): clean
        - sum(accuracy_under(attack, rule, "iid", seed, 2) for seed in seeds) / len(seeds)
        for name, rule in rules.items()
        for attack in CRUDE
    }
    tally(tried=len(lost), held=sum(one < 0.02 for one in lost.values()))
    assert max(lost.values()) < 0.02, lost


def test_who_sends_nan_is_left_out_and_the_others_learn(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        found = accuracy_under(not_a_number, weighted_mean, "iid", 0, 2)
    assert "Round 0: participant 'p0' is left out, its weights are not finite" in caplog.text
    assert found > 0.93
