import numpy as np
import pytest

from hetfed_lightning.data import Examples
from hetfed_lightning.showcases import CitiesDataModule
from scripts.cities import ARMS, Score, by_seed, features, gain, plain_scores, table, worst_decile


def scores(**values: list[float]) -> list[Score]:
    """R2 by arm, an entry per seed, of participants that all have the same."""
    return [
        Score(arm, seed, name, 500, r2, 1.0)
        for arm, found in values.items()
        for seed, r2 in enumerate(found)
        for name in ("a", "b")
    ]


def test_the_worst_decile_is_the_mean_of_the_lowest_tenth() -> None:
    assert worst_decile([float(value) for value in range(30, 0, -1)]) == 2  # of 1, 2 and 3
    assert worst_decile([4.0, 3.0]) == 3


def test_a_gain_is_paired_by_seed_with_students_interval() -> None:
    found = scores(federation=[0.9, 0.8, 0.7], local_only=[0.8, 0.6, 0.4])
    # Gains .1, .2, .3: mean .2, deviation .1; t of 2 degrees of freedom at .975 is 4.303: .2 +- 4.303 * .1 / sqrt(3).
    assert gain(found, ["a", "b"], "mean", "local_only") == "+0.200 (-0.048 to +0.448)"
    assert by_seed(found, "federation", ["a"], "r2", "mean").tolist() == [0.9, 0.8, 0.7]


def test_a_table_has_a_row_per_participant_and_a_mean() -> None:
    arms = {arm: [0.5] for arm in ARMS}
    lines = table(scores(**arms)).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| a", "| b", "| mean"]


def test_persistence_is_the_hour_before_in_the_own_unit() -> None:
    module = CitiesDataModule(["washington"], history=False, public_size=0)
    module.setup()
    found = {one.arm: one for one in plain_scores(module, "test", 0)}
    # Where the hour before was measured too, it is the target of the row before.
    hours = module.hours["washington"]
    tested = module.data.test["washington"]
    assert isinstance(tested, Examples)
    count = len(tested)
    flow, before = hours.flow[-count:], hours.lags[-count:, 0]
    assert found["persistence"].mae == pytest.approx(np.abs(flow - before).mean(), rel=1e-4)
    assert found["ridge"].r2 > found["persistence"].r2
    assert features(tested).shape == (count, 10)
