"""FedALA: the common model mixed into the own one, entry by entry."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hetfed_lightning import DPSGD, BackboneAveraging, Federation
from hetfed_lightning.methods.published.fed_ala import FedALA, picked
from hetfed_lightning.seeding import stream_generator
from tests.federations import fit, tiny_data, tiny_participant
from tests.methods.published.by_hand import Hand, State, close, forward, hands, mean, run

EVERYTHING = {"shared": ("*",), "local_epochs": 2}


def by_hand(cohorts: list[list[str]], method: FedALA, keys: list[str], first: int) -> tuple[dict[str, Hand], int]:
    """Networks after the last round, and the most passes of a first mixture."""
    networks = hands()
    common = dict(networks["a"].weights)
    for one in networks.values():
        one.weights = dict(common)
    trained: dict[str, State] = {}
    known: dict[str, State] = {}
    newest: dict[str, State] = {}
    longest = 0
    for round_index, active in enumerate(cohorts):
        for name in active:
            for _ in range(2):
                networks[name].step()
            trained[name] = {key: networks[name].weights[key] for key in keys}
            if name in newest:
                known[name] = newest[name]
        common = mean([networks[name].weights for name in active], [networks[name].count for name in active])
        for name, one in networks.items():
            one.weights = dict(common)
            if name not in trained:
                continue
            theta, weights = trained[name], known.get(name, {key: torch.ones_like(common[key]) for key in keys})
            stream = (0, "method", method.state_key, "receive", round_index, name)
            drawn = torch.randperm(one.count, generator=stream_generator(*stream))
            chosen = drawn[: round(method.fraction * one.count)].sort().values
            history: list[float] = []
            while True:
                total, steps = 0.0, 0
                for start in range(0, len(chosen), method.batch_size):
                    part = chosen[start : start + method.batch_size]
                    mixed = {key: theta[key] + (common[key] - theta[key]) * weights[key] for key in keys}
                    slopes = gradient({**common, **mixed}, keys, one.inputs[part], one.target[part])
                    total, steps = total + slopes[0], steps + 1
                    weights = {
                        key: (weights[key] - method.lr * slopes[1][key] * (common[key] - theta[key])).clamp(0, 1)
                        for key in keys
                    }
                history.append(total / steps)
                if name in known or len(history) == first:
                    break
                recent = torch.tensor(history[-10:], dtype=torch.float64)
                if len(history) > 10 and float(recent.std(correction=0)) < method.threshold:
                    break
            longest = max(longest, len(history))
            newest[name] = weights
            one.weights |= {key: theta[key] + (common[key] - theta[key]) * weights[key] for key in keys}
    assert any((one > 0).logical_and(one < 1).any() for own in newest.values() for one in own.values())
    return networks, longest


def gradient(weights: State, keys: list[str], inputs: Tensor, target: Tensor) -> tuple[float, State]:
    """Loss of a network and its gradient at some keys."""
    leaves = {key: one.clone().requires_grad_(key in keys) for key, one in weights.items()}
    loss = F.cross_entropy(forward(leaves, inputs)[1], target)
    slopes = torch.autograd.grad(loss, [leaves[key] for key in keys])
    return float(loss.detach()), dict(zip(keys, slopes, strict=True))


@pytest.mark.parametrize("participation", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
@pytest.mark.parametrize(
    ("layers", "keys"),
    [
        (1, ["head.weight", "head.bias"]),
        (2, ["backbone.0.weight", "backbone.0.bias", "head.weight", "head.bias"]),
    ],
)
@pytest.mark.parametrize(("fraction", "threshold", "passes"), [(1.0, 1e-3, 15), (0.6, 10.0, 11)])
def test_equals_a_loop_by_hand(
    participation: float, layers: int, keys: list[str], fraction: float, threshold: float, passes: int
) -> None:
    method = FedALA(fraction, layers, lr=3.0, batch_size=5, threshold=threshold, max_passes=15)
    found, cohorts = run(method, 4, participation=participation, participant=EVERYTHING)
    networks, longest = by_hand(cohorts, method, keys, 15)
    for name, one in networks.items():
        close(found[name], one.weights)
    assert longest == passes


def test_weights_that_stay_at_one_are_federated_averaging() -> None:
    found, _ = run(FedALA(lr=1e-30), 3, participant=EVERYTHING)
    plain, _ = run(BackboneAveraging(max_share=1.0), 3, participant=EVERYTHING)
    for name in "abc":
        close(found[name], plain[name].state_dict())


def test_personal_heads_are_left_alone() -> None:
    found, _ = run(FedALA(), 2)
    heads = [found[name].state_dict()["head.weight"] for name in "ab"]
    assert not torch.equal(*heads)
    (one,) = [one for name, one in found.members().items() if name == "a"]
    assert FedALA(layers=1).mixed_keys(one) == ["backbone.0.weight", "backbone.0.bias"]


def test_inputs_by_name_are_picked() -> None:
    inputs = {"left": torch.arange(6).view(3, 2), "right": torch.arange(3)}
    found = picked(inputs, torch.tensor([0, 2]))
    assert found["left"].tolist() == [[0, 1], [4, 5]]
    assert found["right"].tolist() == [0, 2]


def test_fleets_take_the_same_steps() -> None:
    one, _ = run(FedALA(lr=3.0), 3, participant=EVERYTHING)
    other, _ = run(FedALA(lr=3.0), 3, participant=EVERYTHING, engine="batched")
    for name in "abc":
        close(other[name], one[name].state_dict())


def test_what_cannot_work_is_refused() -> None:
    privacy = DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, delta=1e-5)
    private = Federation({name: tiny_participant(privacy=privacy) for name in "ab"})
    with pytest.raises(ValueError, match=r"'a': privacy=DPSGD\(\.\.\.\) is not possible beside FedALA"):
        fit(private, tiny_data("ab"), 1, FedALA())
    still = Federation({name: tiny_participant(seed=place) for place, name in enumerate("ab")})
    for one in still.members().values():
        one.backbone.requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match=r"'a': FedALA mixes layers that are shared and trained, and it has none"):
        fit(still, tiny_data("ab"), 1, FedALA())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 0.0}, r"fraction: expected a number in \(0, 1\], got 0"),
        ({"lr": math.inf}, "lr: expected a finite number above 0, got inf"),
        ({"threshold": -1.0}, "threshold: expected a finite number above 0, got -1"),
        ({"layers": 0}, "layers: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"max_passes": 0}, "max_passes: expected at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FedALA(**settings)
