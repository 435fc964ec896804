"""Trials of engines: on whom, what is left behind, and when there are none."""

import logging
from typing import Any

import pytest
import torch

from hetfed_lightning import Federation
from hetfed_lightning.fleets import calibration, reference
from hetfed_lightning.fleets.batched import BatchedEngine
from hetfed_lightning.fleets.calibration import spread
from hetfed_lightning.fleets.fleet import Fleet
from hetfed_lightning.fleets.stack import Stack
from hetfed_lightning.fleets.vmap import VmapEngine
from tests.federations import equal, fit, sgd, state_of, tiny_data, tiny_federation
from tests.fleets.test_fleets import made

MANY = [f"p{number:02d}" for number in range(12)]


def many(engine: Any = "auto", **own: Any) -> Federation:
    return tiny_federation(MANY, engine=engine, participant=own)


@pytest.mark.parametrize(
    ("count", "most", "places"), [(3, 8, [0, 1, 2]), (8, 8, list(range(8))), (12, 4, [0, 3, 7, 11])]
)
def test_places_are_spread_from_the_first_to_the_last(count: int, most: int, places: list[int]) -> None:
    assert spread(count, most) == places


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For how many each stack was made."""
    counts: list[int] = []
    right = Stack.__init__

    def note(self: Stack, layout: Any, count: int, like: Any) -> None:
        counts.append(count)
        right(self, layout, count, like)

    monkeypatch.setattr(Stack, "__init__", note)
    return counts


def test_a_stack_of_all_is_made_for_an_engine_alone_that_is_right_for_a_few(
    stacks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(many("batched"), tiny_data(MANY, evaluated=False), 1)
    assert stacks == [calibration.FEW, len(MANY)]
    stacks.clear()
    right = BatchedEngine.descend
    monkeypatch.setattr(BatchedEngine, "descend", lambda self, p, rates, batch: right(self, p, 1.01 * rates, batch))
    fit(many("batched"), tiny_data(MANY, evaluated=False), 1)
    assert stacks == [calibration.FEW]


def test_large_networks_are_copied_less_often(stacks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "COPIED_BYTES", 100)
    fit(many("batched"), tiny_data(MANY, evaluated=False), 1)
    assert stacks == [calibration.FEWER, len(MANY)]


@pytest.mark.parametrize("optimizer", [sgd(0.1), sgd(0.1, momentum=0.9), lambda p: torch.optim.Adam(p, lr=0.01)])
def test_a_trial_leaves_everything_as_it_was(optimizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for timed in (1, 5):
        monkeypatch.setattr(calibration, "REPEATS", timed)
        federation = many("batched", optimizer=optimizer)
        fit(federation, tiny_data(MANY, evaluated=False), 2)
        assert set(federation.fleets.chosen.values()) == {"batched"}
        ends.append(state_of(federation))
    assert equal(*ends)


@pytest.mark.parametrize("place", [0, 7, 11])
def test_a_wrong_step_of_one_member_among_many_is_seen(
    place: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine is right for the copies, and wrong where it runs on everyone."""
    right = BatchedEngine.descend
    assert 7 in spread(len(MANY), calibration.FEW)

    def descend(self: BatchedEngine, parameters: Any, rates: torch.Tensor, batch: Any) -> torch.Tensor:
        if batch.count == len(MANY):
            rates = rates.clone()
            rates[place] *= 1.01
        return right(self, parameters, rates, batch)

    monkeypatch.setattr(BatchedEngine, "descend", descend)
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        federation = many("batched")
        fit(federation, tiny_data(MANY, evaluated=False), 1)
    assert "since batched fails (its step is off by 1.0e-02 of the step's length)" in caplog.text
    alone = many("sequential")
    fit(alone, tiny_data(MANY, evaluated=False), 1)
    assert equal(state_of(federation), state_of(alone))


@pytest.mark.parametrize(("seconds", "tried"), [(0.005, True), (0.02, False)])
def test_vmap_is_not_tried_where_a_step_is_computing(
    seconds: float, tried: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right, seen = VmapEngine.gradients, []

    def gradients(self: VmapEngine, *given: Any) -> torch.Tensor:
        seen.append(1)
        return right(self, *given)

    monkeypatch.setattr(VmapEngine, "gradients", gradients)
    monkeypatch.setattr(reference, "seconds_of", lambda function, device: 2 * seconds)  # Of two participants.
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        federation = Federation({name: made("LayerNorm", seed) for seed, name in enumerate("ab")})
        fit(federation, tiny_data("ab", evaluated=False), 1)
    assert bool(seen) is tried
    assert ("not tried, since a step computes for 20 ms" in caplog.text) is not tried


def test_members_in_a_fleet_that_has_no_seats_yet_have_memory_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at them before the first batch, such as averaging at a newcomer's start, finds them as they are."""
    from hetfed_lightning import BackboneAveraging

    seated: list[bool] = []
    right = Fleet.enlist

    def enlist(self: Fleet, members: Any) -> None:
        right(self, members)
        seated.append(any(self.is_seated(one.name) for one in members))

    monkeypatch.setattr(Fleet, "enlist", enlist)
    federation = tiny_federation(engine="batched")
    fit(federation, tiny_data(), 2, BackboneAveraging())
    assert seated[0] is False
    assert set(federation.fleets.chosen.values()) == {"batched"}
