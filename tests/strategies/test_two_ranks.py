"""Two processes and one agree: in every bit where participants are divided, across ranks where batches are."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.strategies.launching import results
from tests.strategies.scenarios import SCENARIOS, after_exchange, differences

TOGETHER = (
    "averaging_and_phase",
    "mixed_student_participation",
    "quarantine",
    "augmented",
    "own_methods",
    "plans",
    "draws_and_no_steps",
    "any_small_federations",
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every scenario on one device, and the folder of its checkpoints."""
    folder = tmp_path_factory.mktemp("alone")
    names = (*TOGETHER, "split_batches", "saving", "resuming", "moving", "fleets")
    return {name: SCENARIOS[name](folder, dict) for name in names} | {"folder": folder}


@pytest.fixture(scope="module")
def divided(alone: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Participants divided over two ranks; the checkpoints that are resumed are those of one device."""
    folder = tmp_path_factory.mktemp("divided")
    shutil.copytree(alone["folder"] / "saved", folder / "saved")
    found: dict[str, Any] = results(folder, 2, "participant", 0, [*TOGETHER, "private", "resuming", "moving", "fleets"])
    shutil.rmtree(folder / "saved")
    return found | {"folder": folder}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Batches split over two ranks."""
    folder = tmp_path_factory.mktemp("split")
    names = ["averaging_and_phase", "augmented", "plans", "quarantine", "split_batches", "saving"]
    return results(folder, 2, "data", 0, names) | {"folder": folder}


@pytest.mark.parametrize("scenario", TOGETHER)
def test_divided_participants_end_as_on_one_device_on_every_rank(
    scenario: str, alone: dict[str, Any], divided: dict[str, Any]
) -> None:
    for found in divided[scenario]:
        assert not differences(alone[scenario], found)


@pytest.mark.slow
def test_published_methods_end_as_on_one_device_on_every_rank(tmp_path: Path) -> None:
    expected = SCENARIOS["published_methods"](tmp_path, dict)
    for found in results(tmp_path, 2, "participant", 0, ["published_methods"])["published_methods"]:
        for name, one in expected.items():
            assert not differences(one, found[name]), name


def test_events_draw_the_same_everywhere_and_each_its_own(alone: dict[str, Any]) -> None:
    first, second = alone["draws_and_no_steps"]["drawn"]
    end = ["end", "metrics of train", "metrics of val"]
    assert [event for event, *_ in first] == ["prepare", "start", *end, "start", "join", *end]
    assert len({number for one in (first, second) for _, *numbers in one for number in numbers}) == 60


@pytest.mark.promise("private")
def test_noise_is_drawn_once_for_all_ranks(divided: dict[str, Any]) -> None:
    first, second = divided["private"]
    assert not differences(first, second)
    assert first["releases"] == dict.fromkeys("abcd", 2)
    # Participants of both ranks received the same numbers, before the ranks exchanged theirs at the end.
    held = [first["states"][name]["backbone.0.weight"] for name in "abcd"]
    assert all(torch.equal(held[0], other) for other in held)


def test_fleets_of_each_rank_end_as_the_whole_fleet(alone: dict[str, Any], divided: dict[str, Any]) -> None:
    for found in divided["fleets"]:
        assert found["before"] == alone["fleets"]["before"] == ["batched"]
        assert not differences(after_exchange(alone["fleets"]), after_exchange(found), 1e-6)


def test_a_checkpoint_of_one_device_goes_on_divided(alone: dict[str, Any], divided: dict[str, Any]) -> None:
    assert len(alone["resuming"]) >= 4
    for found in divided["resuming"]:
        assert not differences(alone["resuming"], found)


def test_participants_move_to_where_measured_times_ask_for(alone: dict[str, Any], divided: dict[str, Any]) -> None:
    for found in divided["moving"]:
        hosts = found["before"]
        # Equal sizes are dealt out in turn, which puts both slow ones on the first rank.
        assert hosts[0] == {"a": 0, "b": 1, "c": 0, "d": 1}
        assert hosts[1]["a"] != hosts[1]["c"]
        assert hosts[2] == hosts[1]
        assert not differences(after_exchange(alone["moving"]), after_exchange(found))
    assert alone["moving"]["metrics"]["seen/c"] == 3 * 2  # Rounds, batches.


@pytest.mark.parametrize(
    "scenario", ["averaging_and_phase", "augmented", "plans", "quarantine", "split_batches", "saving"]
)
def test_split_batches_leave_the_ranks_equal(scenario: str, split: dict[str, Any]) -> None:
    first, second = split[scenario]
    assert not differences(first, second)


def test_split_batches_give_the_gradient_of_the_whole(alone: dict[str, Any], split: dict[str, Any]) -> None:
    # Sums in another order: equal up to rounding, which Adam's first steps enlarge.
    assert not differences(alone["split_batches"], split["split_batches"][0], 1e-5)


def test_a_checkpoint_of_split_batches_goes_on_on_one_device(split: dict[str, Any]) -> None:
    resumed = SCENARIOS["resuming"](split["folder"], dict)
    assert len(resumed) >= 4
    whole = split["saving"][0]["states"]
    for found in resumed.values():
        # Dropout and batch normalisation differ from there on; participants without either may not.
        for name in ("a", "b", "e"):
            assert not differences(whole[name]["head.weight"], found["states"][name]["head.weight"], 0.05)


def test_both_layouts_at_once_on_four_ranks(alone: dict[str, Any], tmp_path: Path) -> None:
    (ranks,) = results(tmp_path, 4, "data", 2, ["split_batches"]).values()
    for other in ranks[1:]:
        assert not differences(after_exchange(ranks[0]), after_exchange(other))
    assert not differences(after_exchange(alone["split_batches"]), after_exchange(ranks[0]), 1e-5)


@pytest.mark.slow
def test_all_that_is_done_together_is_done_on_four_ranks(tmp_path: Path) -> None:
    (ranks,) = results(tmp_path, 4, "data", 2, ["averaging_and_phase"]).values()
    for other in ranks[1:]:
        assert not differences(after_exchange(ranks[0]), after_exchange(other))
