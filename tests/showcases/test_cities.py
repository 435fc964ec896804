from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.showcases import CarParksDataModule, CitiesDataModule
from hetfed_lightning.showcases.cities.data_module import FlowDataModule
from hetfed_lightning.showcases.cities.flows import Flow
from hetfed_lightning.showcases.cities.lags import Scale


class Two(FlowDataModule):
    """100 usable hours of one flow and 20 of another; the value is the hour."""

    def __init__(self, jump: float = 0.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.jump = jump

    def load_flows(self) -> Mapping[str, Flow]:
        hours = np.arange(124)
        values: NDArray[np.float64] = hours.astype(np.float64) + np.where(
            hours >= 84, self.jump, 0.0
        )  # 84 is the first that is not trained on
        return {"a": Flow("a", hours, values), "b": Flow("b", hours[:44], hours[:44].astype(np.float64) * 2)}


def flows(dataset: Any) -> list[float]:
    return [float(value) for value in dataset.targets]


def features(dataset: Any) -> torch.Tensor:
    inputs = dataset.inputs["features"] if isinstance(dataset.inputs, dict) else dataset.inputs
    assert isinstance(inputs, torch.Tensor)
    return inputs


def test_time_is_cut_in_order() -> None:
    data = Two().data
    assert flows(data.train["a"]) == list(range(24, 84))
    assert flows(data.val["a"]) == list(range(84, 94))
    assert flows(data.test["a"]) == list(range(94, 124))
    assert flows(data.train["b"]) == [2.0 * hour for hour in range(24, 36)]


@pytest.mark.parametrize("module", [CitiesDataModule(), CarParksDataModule()])
def test_no_hour_is_tested_before_one_that_is_trained_on(module: FlowDataModule) -> None:
    data = module.data
    for name, hours in module.hours.items():
        flow = {float(np.float32(value)) for value in hours.flow}
        parts = [data.train[name], data.val[name], data.test[name]]
        cut = len(hours) - len(parts[1]) - len(parts[2])  # type: ignore[arg-type]
        # The last hours are the validation's and the test's, in order; those before them are trained on or public.
        expected = torch.from_numpy(hours.flow[cut:].astype(np.float32))
        assert isinstance(parts[1], Examples)
        assert isinstance(parts[2], Examples)
        assert torch.equal(torch.cat([torch.as_tensor(parts[1].targets), torch.as_tensor(parts[2].targets)]), expected)
        assert set(flows(parts[0])) <= flow
        assert len(parts[0]) <= cut  # type: ignore[arg-type]


def test_the_scale_knows_nothing_of_later_hours() -> None:
    calm, wild = Two(), Two(jump=1e6)
    for one in (calm, wild):
        one.setup()
    assert calm.scales == wild.scales
    assert calm.scales["a"] == Scale(53.5, float(np.arange(24, 84).std()))
    assert torch.equal(features(calm.data.train["a"]), features(wild.data.train["a"]))
    assert not torch.equal(features(calm.data.test["a"]), features(wild.data.test["a"]))


def test_public_hours_come_from_training_and_leave_it() -> None:
    module = Two(public_size=12, seed=3)
    data, whole = module.data, Two().data
    public = data.public
    assert isinstance(public, Examples)
    assert public.targets is None
    assert len(public) == 12
    for name in ("a", "b"):
        kept = {tuple(row) for row in features(data.train[name]).tolist()}
        given = {tuple(row) for row in features(public).tolist()}
        every = {tuple(row) for row in features(whole.train[name]).tolist()}
        assert kept.isdisjoint(given)
        assert every - kept <= given
        assert flows(data.train[name]) == sorted(flows(data.train[name]))
        assert torch.equal(features(data.test[name]), features(whole.test[name]))
    assert sum(len(flows(one)) for one in data.train.values()) == 60  # of 72


def test_public_hours_are_the_seeds_alone() -> None:
    def drawn(seed: int) -> torch.Tensor:
        return features(Two(public_size=12, seed=seed).data.public)

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))


def test_cities_as_they_come() -> None:
    module = CitiesDataModule()
    data = module.data
    assert {name: len(hours) for name, hours in module.hours.items()} == {
        "minneapolis": 21497,
        "washington": 8419,
        "birmingham": 541,
    }
    inputs = data.train["birmingham"].batch(torch.arange(5))[0]  # type: ignore[attr-defined]
    assert {key: tuple(value.shape) for key, value in inputs.items()} == {"features": (5, 10), "history": (5, 24, 2)}
    assert module.num_public == 1000


def test_chosen_cities_without_history() -> None:
    data = CitiesDataModule(["washington"], history=False, public_size=0).data
    assert list(data.train) == ["washington"]
    assert features(data.train["washington"]).shape[1] == 10
    assert data.public is None


def test_car_parks_bear_their_names_or_a_groups() -> None:
    own, numbered = CarParksDataModule().data, CarParksDataModule(group="car_park").data
    assert len(own.train) == 30
    assert {"bull_ring", "others_cccps105a", "bhmbccmkt01"} <= set(own.train)
    assert list(numbered.train) == [f"car_park_{number:02d}" for number in range(30)]
    for first, second in zip(own.train.values(), numbered.train.values(), strict=True):
        assert torch.equal(features(first), features(second))


def test_chosen_car_parks() -> None:
    assert list(CarParksDataModule(["shopping", "bull_ring"]).data.train) == ["bull_ring", "shopping"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Two(own_fractions=(0.5, 0.1, 0.3)), "own_fractions: expected three shares that sum to one"),
        (lambda: Two(public_size=-1), "public_size: expected 0 or more, got -1"),
        (lambda: Two(public_size=36).setup(), "fewer than half of the 72 training hours, got 36"),
        (lambda: Two(own_fractions=(0.98, 0.01, 0.01)).setup(), "b: its 20 usable hours leave none for validation"),
        (lambda: Two(own_fractions=(0.0, 0.5, 0.5)).setup(), "a: its 100 usable hours leave none for training"),
        (lambda: CitiesDataModule(["paris"]), "cities: no 'paris'; there are minneapolis"),
        (lambda: CitiesDataModule([]), "cities: expected a list of names, each once"),
        (lambda: CitiesDataModule("washington"), "cities: expected a list of names"),
        (lambda: CarParksDataModule(["bull_rings"]).setup(), "car_parks: no 'bull_rings'.*bull_ring"),
        (
            lambda: CarParksDataModule(["shopping", "shopping"]).setup(),
            "car_parks: expected a list of names, each once",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        make()
