"""SCAFFOLD and FedDyn: loops by hand, and the minimiser of the mean loss that both reach."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hetfed_lightning import DPSGD, BackboneAveraging, FederatedDataModule, Federation
from hetfed_lightning.methods.published.fed_dyn import FedDyn
from hetfed_lightning.methods.published.scaffold import Scaffold
from tests.federations import fit, line, sgd, tiny_data, tiny_participant, values
from tests.methods.published.by_hand import (
    RATE,
    State,
    close,
    forward,
    hands,
    mean,
    run,
    tensors,
)

EVERYTHING = {"shared": ("*",), "local_epochs": 3}


def zeros(like: State) -> State:
    return {key: torch.zeros_like(one) for key, one in like.items()}


def plus(term: Any) -> Any:
    """Cross-entropy and a term of the weights."""

    def loss(features: Tensor, outputs: Tensor, target: Tensor, weights: Any) -> Any:
        del features
        return torch.nn.functional.cross_entropy(outputs, target) + term(weights)

    return loss


def by_scaffold(cohorts: list[list[str]], server_lr: float, momentum: float, option: str) -> State:
    by_hand = hands(momentum=momentum)
    shared = by_hand["a"].weights
    common, own = zeros(shared), {name: zeros(shared) for name in by_hand}
    for active in cohorts:
        changes = []
        for name in active:
            one, mine = by_hand[name], own[name]
            one.weights = dict(shared)
            for _ in range(3):
                one.step(
                    plus(
                        lambda w, mine=mine, common=common: sum(((common[key] - mine[key]) * w[key]).sum() for key in w)
                    )
                )
            updated = {key: mine[key] - common[key] + (shared[key] - one.weights[key]) / (3 * RATE) for key in mine}
            if option == "I":
                leaves = {key: weight.clone().requires_grad_() for key, weight in shared.items()}
                loss = torch.nn.functional.cross_entropy(forward(leaves, one.inputs)[1], one.target)
                updated = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
            changes.append({key: updated[key] - mine[key] for key in mine})
            own[name] = updated
        average = mean([by_hand[name].weights for name in active], [1.0] * len(active))
        moved = mean(changes, [1.0] * len(active))
        shared = {key: one + server_lr * (average[key] - one) for key, one in shared.items()}
        common = {key: one + moved[key] * len(active) / 3 for key, one in common.items()}
    return shared


@pytest.mark.parametrize(
    ("participation", "server_lr", "momentum"), [(1.0, 1.0, 0.0), (1.0, 1.0, 0.9), (0.6, 1.0, 0.0), (0.6, 0.7, 0.9)]
)
@pytest.mark.parametrize("option", ["I", "II"])
def test_scaffold_equals_a_loop_by_hand(participation: float, server_lr: float, momentum: float, option: Any) -> None:
    method = Scaffold(server_lr, option)
    found, cohorts = run(method, 5, participation=participation, momentum=momentum, participant=EVERYTHING)
    shared = by_scaffold(cohorts, server_lr, momentum, option)
    for name in "abc":
        close(found[name], shared)


@pytest.mark.parametrize(("participation", "momentum"), [(1.0, 0.0), (0.6, 0.9)])
def test_fed_dyn_equals_a_loop_by_hand(participation: float, momentum: float) -> None:
    alpha = 0.3
    found, cohorts = run(FedDyn(alpha), 5, participation=participation, momentum=momentum, participant=EVERYTHING)
    by_hand = hands(momentum=momentum)
    shared = by_hand["a"].weights
    state, own = zeros(shared), {name: zeros(shared) for name in by_hand}
    for active in cohorts:
        for name in active:
            one, mine, began = by_hand[name], own[name], shared
            one.weights = dict(shared)
            for _ in range(3):
                one.step(
                    plus(
                        lambda w, mine=mine, began=began: sum(
                            alpha / 2 * ((w[key] - began[key]) ** 2).sum() - (mine[key] * w[key]).sum() for key in w
                        )
                    )
                )
            own[name] = {key: mine[key] - alpha * (one.weights[key] - shared[key]) for key in mine}
        moves = [{key: by_hand[name].weights[key] - shared[key] for key in shared} for name in active]
        state = {key: one - alpha / 3 * sum(move[key] for move in moves) for key, one in state.items()}
        average = mean([by_hand[name].weights for name in active], [1.0] * len(active))
        shared = {key: one - state[key] / alpha for key, one in average.items()}
    for name in "abc":
        close(found[name], shared)


def minimiser() -> Any:
    """Of the mean of three regressions' losses, in closed form."""
    moments, products = [], []
    for place in range(3):
        inputs, targets = tensors(values(12 + 2 * place, seed=place))
        moments.append(inputs.T @ inputs / len(inputs))
        products.append(inputs.T @ targets / len(inputs))
    return torch.linalg.solve(sum(moments[1:], moments[0]), sum(products[1:], products[0])).T


@pytest.mark.parametrize(
    ("method", "rounds"),
    [
        pytest.param(Scaffold(), 80, marks=pytest.mark.slow),
        (Scaffold(option="I"), 40),
        pytest.param(FedDyn(1.0), 130, marks=pytest.mark.slow),
    ],
)
def test_the_minimiser_of_the_mean_loss_is_reached_where_averages_stay_away(method: Any, rounds: int) -> None:
    def trained(callback: Any, count: int) -> Any:
        together = Federation({name: line(optimizer=sgd(0.15), local_epochs=5) for name in "abc"}, engine="sequential")
        data = FederatedDataModule(
            {name: values(12 + 2 * place, seed=place) for place, name in enumerate("abc")}, batch_size=100
        )
        fit(together, data, count, callback, precision="64-true")
        return together["a"].state_dict()["backbone.weight"]

    wanted = minimiser()
    assert (trained(method, rounds) - wanted).abs().max() < 1e-12
    assert (trained(BackboneAveraging(weighting="uniform"), 40) - wanted).abs().max() > 0.01


@pytest.mark.parametrize("make", [Scaffold, FedDyn])
def test_fleets_take_the_same_steps(make: Any) -> None:
    one, _ = run(make(), 3, participant=EVERYTHING)
    other, _ = run(make(), 3, participant=EVERYTHING, engine="batched")
    for name in "abc":
        close(other[name], one[name].state_dict())


@pytest.mark.parametrize("make", [Scaffold, FedDyn])
def test_personal_parameters_are_left_alone(make: Any) -> None:
    found, _ = run(make(), 2)
    states = [found[name].state_dict() for name in "abc"]
    assert torch.equal(states[0]["backbone.0.weight"], states[1]["backbone.0.weight"])
    assert not torch.equal(states[0]["head.weight"], states[1]["head.weight"])


@pytest.mark.parametrize("make", [Scaffold, FedDyn])
def test_who_shares_nothing_in_common_is_refused(make: Any) -> None:
    apart = Federation({"a": tiny_participant(hidden=4), "b": tiny_participant(hidden=5)})
    with pytest.raises(ValueError, match="has nothing in common to learn: no two participants have common weights"):
        fit(apart, tiny_data("ab"), 1, make())
    nothing = Federation({name: tiny_participant(shared=()) for name in "ab"})
    with pytest.raises(ValueError, match=r"'a': \w+ replaces shared weights, and it shares none"):
        fit(nothing, tiny_data("ab"), 1, make())


@pytest.mark.parametrize("make", [lambda: Scaffold(0.0), lambda: FedDyn(float("nan"))])
def test_settings_out_of_range_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="expected a finite number above 0"):
        make()


def test_option_i_is_refused_beside_privacy() -> None:
    privacy = DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, delta=1e-5)
    private = Federation({name: tiny_participant(privacy=privacy) for name in "ab"})
    with pytest.raises(ValueError, match=r"privacy=DPSGD\(\.\.\.\) is not possible beside Scaffold"):
        fit(private, tiny_data("ab"), 1, Scaffold(option="I"))


def test_an_unknown_option_is_refused() -> None:
    option: Any = "III"
    with pytest.raises(ValueError, match="option: expected 'I' or 'II', got 'III'"):
        Scaffold(option=option)


def test_variates_of_option_i_are_gradients_over_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = run(Scaffold(option="I"), 3, participant=EVERYTHING)
    monkeypatch.setattr("hetfed_lightning.methods.participant_data.BATCH", 5)
    other, _ = run(Scaffold(option="I"), 3, participant=EVERYTHING)
    for name in "abc":
        close(other[name], one[name].state_dict())


@pytest.mark.parametrize(("momentum", "warns"), [(0.0, False), (0.9, True)])
def test_scaffold_warns_of_momentum(momentum: float, warns: bool, caplog: pytest.LogCaptureFixture) -> None:
    run(Scaffold(), 1, momentum=momentum, participant=EVERYTHING)
    assert ("participant 'a': SCAFFOLD's variates are gradients of plain SGD" in caplog.text) == warns
