"""pFedMe: personal models beside a common one that follows them."""

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional as F

from hetfed_lightning import FederatedDataModule, Federation
from hetfed_lightning.methods.published.p_fed_me import PFedMe
from hetfed_lightning.seeding import stream_generator
from tests.federations import equal, fit, line, sgd, state_of, tiny_data, tiny_participant, values
from tests.methods.published.by_hand import Hand, State, close, hands, mean, run, tensors


def near(center: State, lam: float) -> Any:
    """Cross-entropy and the distance to a center."""

    def loss(features: Any, outputs: Any, target: Any, weights: Any) -> Any:
        del features
        apart = sum(((one - center[key]) ** 2).sum() for key, one in weights.items())
        return F.cross_entropy(outputs, target) + lam / 2 * apart

    return loss


def by_hand(cohorts: list[list[str]], drawn: list[list[str]], method: PFedMe) -> tuple[dict[str, Hand], State]:
    """Personal models and the common one after the last round."""
    personal, common = hands(), hands()["a"].weights
    for active, averaged in zip(cohorts, drawn, strict=True):
        own: dict[str, State] = {}
        for name in active:
            w = dict(common)
            for _ in range(method.local_rounds):
                for _ in range(method.inner_steps):
                    personal[name].step(near(w, method.lam))
                theta = personal[name].weights
                w = {key: one - method.lr * method.lam * (one - theta[key]) for key, one in w.items()}
            own[name] = w
        sizes = [personal[name].count if method.weighting == "samples" else 1.0 for name in averaged]
        found = mean([own[name] for name in averaged], sizes)
        common = {key: (1 - method.beta) * one + method.beta * found[key] for key, one in common.items()}
    return personal, common


@pytest.mark.parametrize(
    ("settings", "participation"),
    [({}, 1.0), ({"beta": 1.4, "weighting": "uniform"}, 1.0), ({"beta": 0.7}, 0.6)],
)
def test_equals_a_loop_by_hand(settings: dict[str, Any], participation: float) -> None:
    method = PFedMe(2.0, 0.1, inner_steps=3, local_rounds=2, **settings)
    found, cohorts = run(method, 4, participation=participation)
    personal, common = by_hand(cohorts, cohorts, method)
    for name, one in personal.items():
        close(found[name], one.weights)
        close(found[name].modules_of("PFedMe")["common"], common)


def test_fleets_take_the_same_steps() -> None:
    one, _ = run(PFedMe(2.0, 0.1, inner_steps=2, local_rounds=3), 3)
    other, _ = run(PFedMe(2.0, 0.1, inner_steps=2, local_rounds=3), 3, engine="batched")
    for name in "abc":
        close(other[name], one[name].state_dict())


def test_all_train_and_some_are_averaged() -> None:
    method = PFedMe(2.0, 0.1, inner_steps=2, local_rounds=2, averaged=0.6, seed=5)
    found, cohorts = run(method, 5)
    drawn = []
    for round_index, active in enumerate(cohorts):
        order = torch.randperm(3, generator=stream_generator(5, "averaged", round_index))[:2].tolist()
        drawn.append([active[place] for place in sorted(order)])
    assert all(len(one) == 3 for one in cohorts)
    assert len(set(map(tuple, drawn))) > 1
    personal, common = by_hand(cohorts, drawn, method)
    for name, one in personal.items():
        close(found[name], one.weights)
        close(found[name].modules_of("PFedMe")["common"], common)


def test_common_weights_reach_the_minimiser_of_the_moreau_envelopes() -> None:
    # Of least squares f_k(v) = mean (x v - y)^2 with A = 2 X'X / n and b = 2 X'y / n, the personal model beside w is
    # (A + lam)^-1 (b + lam w), and w is the mean of these.
    lam, count = 0.5, 30
    data = {name: values(count, seed=place) for place, name in enumerate("abc")}
    hessians, slopes = {}, {}
    for name, one in data.items():
        inputs, target = tensors(one)
        hessians[name], slopes[name] = 2 * inputs.T @ inputs / count, 2 * inputs.T @ target / count
    eye = torch.eye(3, dtype=torch.float64)
    inverse = {name: torch.linalg.inv(one + lam * eye) for name, one in hessians.items()}
    pull = [inverse[name] for name in data]
    rest = [inverse[name] @ slopes[name] for name in data]
    wanted = torch.linalg.solve(eye - lam * sum(pull[1:], pull[0]) / 3, sum(rest[1:], rest[0]) / 3)
    # With lr lam = 1 and one step of w_k in a round, w becomes the mean of the personal models.
    together = Federation({name: line(optimizer=sgd(0.3)) for name in data}, engine="sequential")
    method = PFedMe(lam, 1 / lam, inner_steps=3, local_rounds=1, weighting="uniform")
    fit(together, FederatedDataModule(data, batch_size=100), 30, method, precision="64-true")
    common: Any = together["a"].modules_of("PFedMe")["common"].state_dict()["backbone.weight"]
    assert (common - wanted.T).abs().max() < 1e-12
    for name in data:
        theta = together[name].state_dict()["backbone.weight"]
        assert (theta - (inverse[name] @ (slopes[name] + lam * wanted)).T).abs().max() < 1e-12


def test_a_run_resumed_within_a_round_goes_on_with_its_inner_steps(tmp_path: Any) -> None:
    def made() -> Any:
        return PFedMe(2.0, 0.1, inner_steps=3, local_rounds=2)

    def together() -> Federation:
        return Federation({name: tiny_participant(seed=place) for place, name in enumerate("abc")})

    saving = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=4)
    whole, again = together(), together()
    settings: dict[str, Any] = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    fit(whole, tiny_data(), 2, made(), saving, **settings)
    path = min(tmp_path.glob("*.ckpt"), key=lambda one: int(one.stem.split("=")[1]))
    other = ModelCheckpoint(tmp_path / "again", "{step}", save_top_k=-1, every_n_train_steps=4)
    fit(again, tiny_data(), 2, made(), other, ckpt_path=path, **settings)
    assert equal(state_of(again), state_of(whole))


def test_figures_of_the_common_model_stand_beside() -> None:
    together = Federation({name: tiny_participant(seed=place) for place, name in enumerate("abc")})
    made = fit(together, tiny_data(), 2, PFedMe(local_rounds=2))
    assert "val_accuracy.common/a" in made.callback_metrics


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lam": 0.0}, "lam: expected a finite number above 0, got 0"),
        ({"lr": float("nan")}, "lr: expected a finite number above 0, got nan"),
        ({"beta": -1.0}, "beta: expected a finite number above 0, got -1"),
        ({"inner_steps": 0}, "inner_steps: expected at least 1, got 0"),
        ({"local_rounds": 0}, "local_rounds: expected at least 1, got 0"),
        ({"averaged": 0.0}, r"averaged: expected a fraction in \(0, 1\], got 0"),
        ({"weighting": "size"}, "weighting: expected 'samples' or 'uniform', got 'size'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PFedMe(**settings)


def test_unlike_networks_are_refused() -> None:
    unlike = Federation({"a": tiny_participant(hidden=4), "b": tiny_participant(hidden=5, seed=1)})
    with pytest.raises(ValueError, match="networks of one architecture, heads included"):
        fit(unlike, tiny_data("ab"), 1, PFedMe())
