"""APFL: mixtures of own models and the common one."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hetfed_lightning import BackboneAveraging, Federation
from hetfed_lightning.methods.published.apfl import APFL
from tests.federations import equal, fit, state_of, tiny_data, tiny_participant
from tests.methods.published.by_hand import MOMENTUM, RATE, State, close, forward, hands, mean, run


def mixed(alpha: Tensor, own: State, common: State) -> State:
    return {key: alpha * one + (1 - alpha) * common[key] for key, one in own.items()}


def slope(weights: State, inputs: Tensor, target: Tensor) -> State:
    """Gradient of the mean cross-entropy."""
    leaves = {key: one.clone().requires_grad_() for key, one in weights.items()}
    loss = F.cross_entropy(forward(leaves, inputs)[1], target)
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def by_hand(cohorts: list[list[str]], alpha: float, *, adaptive: bool) -> tuple[dict[str, State], list[float]]:
    """Mixtures and weights after the last round, by the equations of the paper with momentum."""
    common_models, own_models = hands(), hands()
    common = dict(common_models["a"].weights)
    alphas = {name: torch.tensor(alpha, dtype=torch.float32).double() for name in "abc"}
    speeds: dict[str, Any] = {}
    for active in cohorts:
        for name in active:
            w, v = common_models[name], own_models[name]
            w.weights = dict(common)
            for _ in range(2):
                steep = slope(mixed(alphas[name].clamp(0, 1), v.weights, w.weights), v.inputs, v.target)
                of_alpha = sum((one * (v.weights[key] - w.weights[key])).sum() for key, one in steep.items())
                towards = {key: alphas[name].clamp(0, 1) * one for key, one in steep.items()}
                for model, gradient in ((v, towards), (w, slope(w.weights, w.inputs, w.target))):
                    for key, one in gradient.items():
                        model.velocity[key] = MOMENTUM * model.velocity.get(key, 0) + one
                        model.weights[key] = model.weights[key] - RATE * model.velocity[key]
                if adaptive:
                    speeds[name] = MOMENTUM * speeds.get(name, 0) + of_alpha
                    alphas[name] = alphas[name] - RATE * speeds[name]
        common = mean([common_models[name].weights for name in active], [own_models[name].count for name in active])
        alphas = {name: one.clamp(0, 1) for name, one in alphas.items()}
    made = {name: mixed(alphas[name], own_models[name].weights, common) for name in "abc"}
    return made, [float(one) for one in alphas.values()]


@pytest.mark.parametrize("participation", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
@pytest.mark.parametrize(("alpha", "adaptive"), [(0.3, True), (0.7, False), (0.05, True)])
def test_equals_a_loop_by_hand(alpha: float, adaptive: bool, participation: float) -> None:
    settings: dict[str, Any] = {"participation": participation, "participant": {"local_epochs": 2}}
    found, cohorts = run(APFL(alpha, adaptive=adaptive), 4, **settings)
    expected, alphas = by_hand(cohorts, alpha, adaptive=adaptive)
    for name, weight in zip("abc", alphas, strict=True):
        close(found[name], expected[name])
        learned: Any = found[name].modules_of("APFL")["share"].alpha
        assert abs(float(learned.detach()) - weight) < 1e-12
    assert (len(set(alphas)) > 1) == adaptive


def test_without_own_models_it_is_federated_averaging() -> None:
    found, _ = run(APFL(0.0, adaptive=False), 3)
    plain, _ = run(BackboneAveraging(max_share=1.0), 3, participant={"shared": ("*",)})
    for name in "abc":
        close(found[name], plain[name].state_dict())


def test_without_the_common_model_it_is_local_training() -> None:
    found, _ = run(APFL(1.0, adaptive=False), 3)
    for name, one in hands().items():
        for _ in range(3):
            one.step()
        close(found[name], one.weights)


def test_fleets_take_the_same_steps() -> None:
    one, _ = run(APFL(0.3), 3)
    other, _ = run(APFL(0.3), 3, engine="batched")
    for name in "abc":
        close(other[name], one[name].state_dict())


def test_figures_of_the_common_model_stand_beside() -> None:
    together = Federation({name: tiny_participant(seed=place) for place, name in enumerate("abc")})
    made = fit(together, tiny_data(), 2, APFL())
    assert "val_accuracy.common/a" in made.callback_metrics
    models = [together[name].modules_of("APFL")["common"] for name in "ab"]
    assert equal(state_of(models[0]), state_of(models[1]))


def test_what_cannot_work_is_refused() -> None:
    unlike = Federation({"a": tiny_participant(hidden=4), "b": tiny_participant(hidden=5, seed=1)})
    with pytest.raises(ValueError, match="networks of one architecture, heads included"):
        fit(unlike, tiny_data("ab"), 1, APFL())
    with pytest.raises(ValueError, match=r"alpha: expected a number in \[0, 1\], got 1.5"):
        APFL(1.5)
