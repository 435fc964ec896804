"""HeteroFL and FedRolex: parts of one large network."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed_lightning import Federation, Participant
from hetfed_lightning.methods.published.fed_rolex import FedRolex
from hetfed_lightning.methods.published.hetero_fl import HeteroFL
from tests.federations import fit, line, sgd, tiny_data, tiny_participant
from tests.methods.published.by_hand import MOMENTUM, RATE, Cohort, Hand, State, close, whole_batches

HIDDEN = {"a": 3, "b": 5, "c": 2}


def together(rate: float = RATE, momentum: float = MOMENTUM, **settings: Any) -> Federation:
    made = {
        name: tiny_participant(hidden=width, seed=place, shared=("*",), optimizer=sgd(rate, momentum=momentum))
        for place, (name, width) in enumerate(HIDDEN.items())
    }
    return Federation(made, **({"engine": "sequential"} | settings))


def rows_of(kind: type, name: str, round_index: int) -> list[int]:
    """Hidden units of the widest network that a participant has in a round."""
    offset = round_index if kind is FedRolex and HIDDEN[name] < 5 else 0
    return [(unit + offset) % 5 for unit in range(HIDDEN[name])]


def part(whole: State, rows: list[int]) -> State:
    return {
        "backbone.0.weight": whole["backbone.0.weight"][rows],
        "backbone.0.bias": whole["backbone.0.bias"][rows],
        "head.weight": whole["head.weight"][:, rows],
        "head.bias": whole["head.bias"],
    }


@pytest.mark.parametrize("kind", [HeteroFL, FedRolex])
@pytest.mark.parametrize("participation", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
@pytest.mark.parametrize("weighting", ["uniform", "samples"])
def test_equals_a_loop_by_hand(kind: Any, participation: float, weighting: Any) -> None:
    found, cohort = together(participation=participation), Cohort()
    fit(found, whole_batches(), 7, kind(weighting), cohort, precision="64-true")
    own = {name: Hand(place) for place, name in enumerate(HIDDEN)}
    whole: State = {key: one.double() for key, one in tiny_participant(hidden=5, seed=1).state_dict().items()}
    for round_index, active in enumerate(cohort.rounds):
        sums = {key: torch.zeros_like(one) for key, one in whole.items()}
        shares = {key: torch.zeros_like(one) for key, one in whole.items()}
        for name in active:
            one, rows = own[name], rows_of(kind, name, round_index)
            one.weights = part(whole, rows)
            present = torch.bincount(one.target, minlength=3) > 0
            one.step(masked(present))
            weight = one.count if weighting == "samples" else 1
            for row, unit in enumerate(rows):
                for key, at, mine in (
                    ("backbone.0.weight", (unit,), (row,)),
                    ("backbone.0.bias", (unit,), (row,)),
                    ("head.weight", (slice(None), unit), (slice(None), row)),
                ):
                    sums[key][at] += weight * one.weights[key][mine]
                    shares[key][at] += weight
            sums["head.bias"] += weight * one.weights["head.bias"]
            shares["head.bias"] += weight
        whole = {key: torch.where(shares[key] > 0, sums[key] / shares[key], one) for key, one in whole.items()}
    for name in HIDDEN:
        close(found[name], part(whole, rows_of(kind, name, 7)))


def masked(present: Tensor) -> Any:
    """Cross-entropy in which logits of absent classes are zero."""

    def loss(features: Tensor, outputs: Tensor, target: Tensor, weights: Any) -> Tensor:
        del features, weights
        return F.cross_entropy(torch.where(present, outputs, 0.0), target)

    return loss


def test_slices_of_one_network_give_it_back() -> None:
    found = together(rate=0.0)
    method = HeteroFL()
    fit(found, tiny_data(), 3, method, precision="64-true")
    whole = tiny_participant(hidden=5, seed=1).state_dict()
    for name, width in HIDDEN.items():
        close(found[name], part({key: one.double() for key, one in whole.items()}, list(range(width))))


def test_rolling_trains_units_that_narrow_participants_have_not_begun_with() -> None:
    found = Federation(
        {
            "a": tiny_participant(hidden=3, seed=0, shared=("*",)),
            "w": tiny_participant(hidden=5, seed=1, shared=("*",), optimizer=sgd(0.0)),
        }
    )
    began = tiny_participant(hidden=5, seed=1).state_dict()["backbone.0.bias"].clone()
    fit(found, tiny_data("aw"), 5, FedRolex())
    assert bool((found["w"].state_dict()["backbone.0.bias"] != began).all())


def test_convolutions_of_other_widths_take_part_and_what_is_flattened_does_not_roll() -> None:
    def images(width: int, seed: int, *, pooled: bool) -> Participant:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            end = nn.AdaptiveAvgPool2d(1) if pooled else nn.Identity()
            backbone = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, width, 1), nn.ReLU(), end, nn.Flatten())
            return Participant(backbone, nn.Linear(width * (1 if pooled else 4), 3), shared=("*",), optimizer=sgd())

    for kind in (HeteroFL, FedRolex):
        found = Federation({"a": images(2, 0, pooled=True), "b": images(4, 1, pooled=True)})
        fit(found, tiny_data("ab"), 3, kind())
    flat = {"a": images(2, 0, pooled=False), "b": images(4, 1, pooled=False)}
    fit(Federation(flat), tiny_data("ab"), 2, HeteroFL())
    again = {"a": images(2, 0, pooled=False), "b": images(4, 1, pooled=False)}
    with pytest.raises(ValueError, match=r"head.weight takes 16 inputs \(8 of 'a'\), which are no other layer's"):
        fit(Federation(again), tiny_data("ab"), 1, FedRolex())


@pytest.mark.parametrize("kind", [HeteroFL, FedRolex])
def test_who_cannot_take_part_is_refused(kind: Any) -> None:
    deep = tiny_participant(shared=("*",))
    deep.head = nn.Sequential(nn.Linear(5, 3))
    with pytest.raises(ValueError, match=r"needs one architecture of several widths, and head.+ is shared by"):
        fit(Federation({"a": tiny_participant(shared=("*",)), "b": deep}), tiny_data("ab"), 1, kind())

    def two(first: int, second: int) -> Participant:
        backbone = nn.Sequential(nn.Linear(4, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU())
        return Participant(backbone, nn.Linear(second, 3), shared=("*",), optimizer=sgd())

    crossed = Federation({"a": two(8, 2), "b": two(4, 6)})
    with pytest.raises(ValueError, match=r"'\w' is no slice of the widest participant, '\w': its backbone"):
        fit(crossed, tiny_data("ab"), 1, kind())
    with pytest.raises(ValueError, match=r"'a': \w+ replaces shared weights, and it shares none"):
        fit(Federation({name: tiny_participant(shared=()) for name in "ab"}), tiny_data("ab"), 1, kind())
    with pytest.raises(ValueError, match="weighting: expected"):
        kind("equal")


def test_without_masks_any_task_will_do() -> None:
    from hetfed_lightning import FederatedDataModule
    from tests.federations import values

    data = FederatedDataModule({name: values(8, seed=seed) for seed, name in enumerate("ab")}, batch_size=4)
    fit(Federation({name: line() for name in "ab"}), data, 2, HeteroFL(masks_absent=False), precision="64-true")
    with pytest.raises(ValueError, match=r"HeteroFL\(masks_absent=True\) has a vector for each class"):
        fit(Federation({name: line() for name in "ab"}), data, 2, HeteroFL(), precision="64-true")
