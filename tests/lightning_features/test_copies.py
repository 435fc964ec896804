"""Participants and federations can be copied and pickled, before and after training, and the copies are whole."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, Federation, Participant
from tests.federations import equal, fit, state_of, tiny_data


def federation() -> Federation:
    """Made of what pickle can take."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        members = {
            name: Participant(
                nn.Linear(4, 5),
                nn.Linear(5, 3),
                optimizer=partial(torch.optim.Adam, lr=0.01),
                lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1),
            )
            for name in "ab"
        }
        return Federation(members, Participant(nn.Linear(4, 3)), seed=4, engine="sequential")


def pickled(made: Any) -> Any:
    return pickle.loads(pickle.dumps(made))


COPIES: list[Callable[[Any], Any]] = [copy.deepcopy, pickled]


def train(made: Federation, rounds: int = 1) -> None:
    fit(made, tiny_data("ab"), rounds, EnsembleDistillation(students="both"), BackboneAveraging())


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("copied", COPIES)
def test_a_copied_federation_trains_as_the_original_would(copied: Callable[[Any], Any], trained: bool) -> None:
    original = federation()
    if trained:
        train(original)
    other = copied(original)
    before = state_of(original)
    assert equal(before, state_of(other))
    train(other)
    assert equal(before, state_of(original))  # nothing is shared with the copy
    train(original)
    assert equal(state_of(original), state_of(other))


@pytest.mark.parametrize("copied", COPIES)
def test_copied_participants_belong_to_the_copy(copied: Callable[[Any], Any]) -> None:
    original = federation()
    other = copied(original)
    assert all(participant.host is other for participant in other.everyone().values())
    assert all(participant.host is original for participant in original.everyone().values())
    assert [participant.name for participant in other.everyone().values()] == ["a", "b", "student"]


@pytest.mark.parametrize("copied", COPIES)
def test_a_copied_participant_leaves_the_federation_behind(copied: Callable[[Any], Any]) -> None:
    original = federation()
    train(original)
    alone = copied(original["a"])
    assert alone.host is None
    assert alone._trainer is None
    assert equal(state_of(original["a"]), state_of(alone))


def test_a_copy_leaves_the_optimizers_of_a_run_behind() -> None:
    original = federation()
    train(original)
    assert set(original.local) == {"a", "b", "student"}
    assert pickled(original).local == {}


def test_a_pickled_participant_holds_nobody_else() -> None:
    giant = Participant(nn.Linear(4, 100_000), nn.Linear(100_000, 3))
    made = Federation({"a": Participant(nn.Linear(4, 5), nn.Linear(5, 3)), "giant": giant})
    fit(made, tiny_data(("a", "giant")), 1)
    assert len(pickle.dumps(made["a"])) < 20_000
    assert len(pickle.dumps(giant)) > 3_000_000


def test_a_federation_is_freed_although_its_participants_know_it() -> None:
    made = federation()
    participant = made["a"]
    del made
    assert participant.host is None
