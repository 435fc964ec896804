"""Ditto and FML: personal models beside a common one that travels."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed_lightning import FederatedDataModule, Federation
from hetfed_lightning.data import Examples
from hetfed_lightning.methods.published.ditto import Ditto
from hetfed_lightning.methods.published.fml import FML
from tests.federations import equal, examples, fit, line, sgd, state_of, tiny_data, tiny_participant
from tests.methods.published.by_hand import MOMENTUM, RATE, Hand, State, close, forward, hands, mean, run


def step_both(one: Hand, common: Hand, loss: Any) -> None:
    """One step of both models on the gradients of a loss of all weights."""
    keys = [(model, key) for model in (one, common) for key in model.weights]
    leaves = [model.weights[key].clone().requires_grad_() for model, key in keys]
    own = {key: leaf for (model, key), leaf in zip(keys, leaves, strict=True) if model is one}
    theirs = {key: leaf for (model, key), leaf in zip(keys, leaves, strict=True) if model is common}
    value = loss(own, theirs, one.inputs, one.target)
    for (model, key), gradient in zip(keys, torch.autograd.grad(value, leaves), strict=True):
        model.velocity[key] = MOMENTUM * model.velocity[key] + gradient if key in model.velocity else gradient
        model.weights[key] = model.weights[key] - RATE * model.velocity[key]


def by_hand(cohorts: list[list[str]], loss: Any) -> tuple[dict[str, Hand], State]:
    """Own models, and the common one after the last round."""
    own, copies = hands(), hands()
    common = dict(copies["a"].weights)
    for active in cohorts:
        for name in active:
            copies[name].weights = dict(common)
            for _ in range(2):
                step_both(own[name], copies[name], loss(dict(common)))
        common = mean([copies[name].weights for name in active], [own[name].count for name in active])
    return own, common


def ditto(lam: float) -> Any:
    def of(began: State) -> Any:
        def loss(own: State, theirs: State, inputs: Tensor, target: Tensor) -> Any:
            both = sum(F.cross_entropy(forward(one, inputs)[1], target) for one in (own, theirs))
            return both + lam / 2 * sum(((own[key] - began[key]) ** 2).sum() for key in own)

        return loss

    return of


def fml(alpha: float, beta: float) -> Any:
    def loss(own: State, theirs: State, inputs: Tensor, target: Tensor) -> Any:
        mine, common = (forward(one, inputs)[1].softmax(1) for one in (own, theirs))
        right = torch.arange(len(target))
        towards = (common.detach() * (common.detach() / mine).log()).sum(1)
        back = (mine.detach() * (mine.detach() / common).log()).sum(1)
        losses = -alpha * mine[right, target].log() + (1 - alpha) * towards
        return (losses - beta * common[right, target].log() + (1 - beta) * back).mean()

    return lambda began: loss


@pytest.mark.parametrize("participation", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
@pytest.mark.parametrize(
    ("method", "loss"), [(lambda: Ditto(0.7), ditto(0.7)), (lambda: FML(alpha=0.3, beta=0.6), fml(0.3, 0.6))]
)
def test_equals_a_loop_by_hand(method: Any, loss: Any, participation: float) -> None:
    found, cohorts = run(method(), 4, participation=participation, participant={"local_epochs": 2})
    own, common = by_hand(cohorts, loss)
    for name, one in own.items():
        close(found[name], one.weights)
        (title,) = found[name].titles_of_modules()
        close(found[name].modules_of(title)["common"], common)


def test_ditto_without_its_term_is_local_training() -> None:
    alone = Federation({name: tiny_participant(seed=place) for place, name in enumerate("abc")})
    fit(alone, tiny_data(), 2)
    beside = Federation({name: tiny_participant(seed=place) for place, name in enumerate("abc")})
    fit(beside, tiny_data(), 2, Ditto(0.0))
    for name in "abc":
        for key, one in state_of(alone[name]).items():
            torch.testing.assert_close(beside[name].state_dict()[key], one)


def test_dittos_point_estimation_is_best_at_the_papers_lambda() -> None:
    # Centers are d_k = tau (1, 1, -1, -1), means of n = 4 observations m_k = d_k + e_k with e_k = s (1, -1, 1, -1) and
    # s^2 = sigma^2 / n. By f_k(v) = mean (v - y)^2, of twice the curvature of the paper's, the personal model beside
    # w = mean m_k = 0 is m_k / (1 + lam / 2), whose mean squared error (s^2 + tau^2 lam^2 / 4) / (1 + lam / 2)^2 is
    # least at lam / 2 = s^2 / tau^2 = sigma^2 / (n tau^2).
    tau, s, sigma, n = 1.0, 0.5, 1.0, 4
    centers = {"a": tau, "b": tau, "c": -tau, "d": -tau}
    means = dict(zip(centers, (tau + s, tau - s, -tau + s, -tau - s), strict=True))
    noise = sigma * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    data = {name: Examples(torch.ones(n, 1).double(), (one + noise)[:, None]) for name, one in means.items()}
    errors = {}
    for half in (0.5, 1.0, 2.0):
        lam = half * 2 * sigma**2 / (n * tau**2)
        together = Federation({name: line(features=1, weights=[3.0], optimizer=sgd(0.4)) for name in means})
        fit(together, FederatedDataModule(data, batch_size=n), 30, Ditto(lam), precision="64-true")
        personal = {name: float(together[name].state_dict()["backbone.weight"]) for name in means}
        for name, one in personal.items():
            assert abs(one - means[name] / (1 + lam / 2)) < 1e-12
        errors[half] = sum((personal[name] - centers[name]) ** 2 for name in means) / 4
    assert min(errors, key=errors.__getitem__) == 1.0
    assert abs(errors[1.0] - s**2 * tau**2 / (s**2 + tau**2)) < 1e-12


@pytest.mark.parametrize("make", [Ditto, FML])
def test_fleets_take_the_same_steps(make: Any) -> None:
    one, _ = run(make(), 3)
    other, _ = run(make(), 3, engine="batched")
    for name in "abc":
        close(other[name], one[name].state_dict())


def test_figures_of_the_common_model_stand_beside() -> None:
    together = Federation({name: tiny_participant(seed=place) for place, name in enumerate("abc")})
    made = fit(together, tiny_data(), 2, Ditto())
    assert "val_accuracy.common/a" in made.callback_metrics


def test_unlike_networks_need_a_common_model_for_fml() -> None:
    def unlike() -> Federation:
        return Federation({"a": tiny_participant(hidden=4), "b": tiny_participant(hidden=5, seed=1)})

    with pytest.raises(ValueError, match=r"no two participants have common weights.*Give FML\(common=...\) a model"):
        fit(unlike(), tiny_data("ab"), 1, FML())
    with pytest.raises(ValueError, match="networks of one architecture, heads included"):
        fit(unlike(), tiny_data("ab"), 1, Ditto())
    found = unlike()
    fit(found, tiny_data("ab"), 2, FML(nn.Sequential(nn.Linear(4, 3))))
    models = [found[name].modules_of("FML")["common"] for name in "ab"]
    assert equal(state_of(models[0]), state_of(models[1]))


def test_other_tasks_and_settings_are_refused() -> None:
    binary = Federation({name: tiny_participant(classes=1, task="binary") for name in "ab"})
    data = FederatedDataModule({name: examples(12, classes=2, seed=seed) for seed, name in enumerate("ab")})
    with pytest.raises(ValueError, match=r"'a': FML compares probabilities of classes, and its task is binary"):
        fit(binary, data, 1, FML())
    for make, message in ((lambda: Ditto(-1.0), "lam: expected"), (lambda: FML(alpha=1.5), "alpha: expected")):
        with pytest.raises(ValueError, match=message):
            make()
