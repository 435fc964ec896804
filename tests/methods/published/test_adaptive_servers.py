"""FedAdam, FedYogi, FedAdagrad: Algorithm 2 of Reddi et al. step by step."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hetfed_lightning import BackboneAveraging
from hetfed_lightning.methods.published.fed_adagrad import FedAdagrad
from hetfed_lightning.methods.published.fed_adam import FedAdam
from hetfed_lightning.methods.published.fed_yogi import FedYogi
from tests.methods.published.by_hand import close, hands, mean, run

EVERYTHING = {"shared": ("*",)}


def squares(kind: type, before: Tensor, change: Tensor, second: float) -> Tensor:
    if kind is FedAdagrad:
        return before + change**2
    if kind is FedYogi:
        return before - (1 - second) * change**2 * torch.sign(before - change**2)
    return second * before + (1 - second) * change**2


@pytest.mark.parametrize("kind", [FedAdam, FedYogi, FedAdagrad])
@pytest.mark.parametrize("weighting", ["samples", "uniform"])
def test_equals_algorithm_2_step_by_step(kind: Any, weighting: str) -> None:
    first, second, rate, tau = (0.0 if kind is FedAdagrad else 0.8), 0.95, 0.05, 0.01
    betas = {} if kind is FedAdagrad else {"betas": (first, second)}
    method = kind(rate, tau=tau, weighting=weighting, **betas)
    found, cohorts = run(method, 4, participation=0.6, participant=EVERYTHING)
    by_hand = hands()
    shared = by_hand["a"].weights
    moment = {key: torch.zeros_like(one) for key, one in shared.items()}
    second_moment = {key: torch.full_like(one, tau**2) for key, one in shared.items()}
    for active in cohorts:
        for name in active:
            by_hand[name].weights = dict(shared)
            by_hand[name].step()
        weights = [by_hand[name].count if weighting == "samples" else 1.0 for name in active]
        average = mean([by_hand[name].weights for name in active], weights)
        for key, one in shared.items():
            change = average[key] - one
            moment[key] = first * moment[key] + (1 - first) * change
            second_moment[key] = squares(kind, second_moment[key], change, second)
        shared = {key: one + rate * moment[key] / (second_moment[key].sqrt() + tau) for key, one in shared.items()}
    for name in "abc":
        close(found[name], shared)


def test_torchs_adam_corrects_a_bias_and_is_another_method() -> None:
    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.1, betas=(0.9, 0.99), eps=1e-3)

    one, _ = run(FedAdam(0.1), 3, participant=EVERYTHING)
    other, _ = run(BackboneAveraging(server_optimizer=adam, max_share=1.0), 3, participant=EVERYTHING)
    apart = (one["a"].state_dict()["head.weight"] - other["a"].state_dict()["head.weight"]).abs().max()
    assert apart > 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"server_lr": 0.0}, "lr: expected a finite number above 0, got 0"),
        ({"tau": float("inf")}, "tau: expected a finite number above 0, got inf"),
        ({"betas": (0.9, 1.0)}, r"betas: expected two numbers in \[0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FedAdam(**settings)
