"""FedRep and FedBABU: which part is trained when."""

import pytest
import torch
from torch import nn

from hetfed_lightning import Federation, Participant
from hetfed_lightning.methods.published.fed_babu import FedBABU
from hetfed_lightning.methods.published.fed_bn import FedBN
from hetfed_lightning.methods.published.fed_rep import FedRep
from tests.federations import fit, tiny_data, tiny_participant
from tests.methods.published.by_hand import Hand, close, hands, mean, run

BACKBONE = ("backbone.0.weight", "backbone.0.bias")
HEAD = ("head.weight", "head.bias")


def averaged(by_hand: dict[str, Hand], active: list[str], keys: tuple[str, ...]) -> None:
    """Everyone gets the mean of those who trained."""
    states = [{key: by_hand[name].weights[key] for key in keys} for name in active]
    common = mean(states, [by_hand[name].count for name in active])
    for one in by_hand.values():
        one.weights |= common


def alike(by_hand: dict[str, Hand], keys: tuple[str, ...]) -> None:
    for one in by_hand.values():
        one.weights |= {key: by_hand["a"].weights[key] for key in keys}


@pytest.mark.parametrize("participation", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
def test_fed_rep_equals_a_loop_by_hand(participation: float) -> None:
    found, cohorts = run(FedRep(head_epochs=3, backbone_epochs=2), 4, participation=participation)
    by_hand = hands()
    alike(by_hand, BACKBONE)
    for active in cohorts:
        for name in active:
            for _ in range(3):
                by_hand[name].step(trains=HEAD)
            for _ in range(2):
                by_hand[name].step(trains=BACKBONE)
        averaged(by_hand, active, BACKBONE)
    for name, one in by_hand.items():
        close(found[name], one.weights)


@pytest.mark.parametrize("common_head", [True, False])
def test_fed_babu_equals_a_loop_by_hand(common_head: bool) -> None:
    shared = ("*",) if common_head else ("backbone",)
    found, cohorts = run(FedBABU(2), 3, participation=0.6, participant={"shared": shared, "local_epochs": 2})
    by_hand = hands()
    alike(by_hand, BACKBONE + HEAD * common_head)
    began = {name: {key: one.weights[key] for key in HEAD} for name, one in by_hand.items()}
    for active in cohorts:
        for name in active:
            for _ in range(2):
                by_hand[name].step(trains=BACKBONE)
        averaged(by_hand, active, BACKBONE)
    for name, one in by_hand.items():
        assert all((one.weights[key] == began[name][key]).all() for key in HEAD)
        for _ in range(2):
            one.step()
        close(found[name], one.weights)


def test_who_has_no_second_part_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'a': FedRep trains personal and shared .* it has no personal one to train"):
        run(FedRep(), 1, participant={"shared": ("*",)})
    federation = Federation({name: tiny_participant() for name in "ab"})
    for one in federation.members().values():
        one.backbone.requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match=r"'a': FedBABU trains all but the head, and there is nothing else to train"):
        fit(federation, tiny_data("ab"), 1, FedBABU())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FedRep(0), "head_epochs: expected at least 1, got 0"),
        (lambda: FedRep(1, 0), "backbone_epochs: expected at least 1, got 0"),
        (lambda: FedBABU(-1), "fine_tune_epochs: expected at least 0, got -1"),
        (lambda: FedBABU(1, 0), "local_epochs: expected at least 1 or None, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()


def test_a_head_of_another_width_takes_part() -> None:
    # Only backbones travel.
    federation = Federation({"a": tiny_participant(classes=3), "b": tiny_participant(classes=3, seed=1)})
    federation["b"].head = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    fit(federation, tiny_data("ab"), 2, FedRep(1))


def test_fed_bn_averages_all_but_normalisation() -> None:
    def made(seed: int) -> Participant:
        one = tiny_participant(seed=seed, shared=("*",))
        one.backbone = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU())
        with torch.no_grad():
            one.backbone.get_parameter("1.weight").fill_(1.0 + seed)
        return one

    federation = Federation({name: made(place) for place, name in enumerate("abc")})
    fit(federation, tiny_data(), 2, FedBN())
    one, other = (federation[name].state_dict() for name in "ab")
    for key in one:
        assert torch.equal(one[key], other[key]) == (not key.startswith("backbone.1")), key
