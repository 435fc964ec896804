"""FedMD and DS-FL: loops by hand on a public set, and refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed_lightning import FederatedDataModule, Federation
from hetfed_lightning.methods.published.ds_fl import DSFL
from hetfed_lightning.methods.published.fed_md import FedMD
from tests.federations import examples, fit, tiny_data, tiny_participant
from tests.methods.published.by_hand import Hand, close, forward, hands, run, tensors

PUBLIC, _ = tensors(examples(10, seed=300))


def on_public(one: Hand, loss: Any) -> None:
    """A full-batch step on the public set: its inputs in place of the own ones."""
    own, one.inputs = one.inputs, PUBLIC
    one.step(lambda features, outputs, target, weights: loss(outputs))
    one.inputs = own


@pytest.mark.parametrize("participation", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
def test_fed_md_equals_a_loop_by_hand(participation: float) -> None:
    method = FedMD(2, 3, batch_size=100, weight=0.5)
    found, cohorts = run(method, 4, participation=participation)
    own = hands()
    for round_index, active in enumerate(cohorts):
        logits = torch.stack([forward(one.weights, PUBLIC)[1] for one in own.values()]).mean(0)
        for name in active:
            for _ in range(2 if round_index else 0):
                on_public(own[name], lambda outputs, logits=logits: 0.5 * (outputs - logits).abs().mean())
            for _ in range(3):
                own[name].step()
    for name, one in own.items():
        close(found[name], one.weights)


def targets(own: list[Hand], reduction: str, temperature: float) -> Tensor:
    mean = torch.stack([forward(one.weights, PUBLIC)[1].softmax(1) for one in own]).mean(0)
    if reduction == "era":
        raised = (mean / temperature).exp()
    else:
        raised = mean ** (1 / temperature if reduction == "power" else 1.0)
    return raised / raised.sum(1, keepdim=True)


@pytest.mark.parametrize("participation", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
@pytest.mark.parametrize("reduction", ["era", "power", "mean"])
def test_ds_fl_equals_a_loop_by_hand(reduction: Any, participation: float) -> None:
    method = DSFL(reduction, 0.4, epochs=2, batch_size=100)
    found, cohorts = run(method, 3, participation=participation)
    own = hands()
    for active in cohorts:
        for name in active:
            own[name].step()
        towards = targets([own[name] for name in active], reduction, 0.4)
        for name in active:
            for _ in range(2):
                on_public(own[name], lambda outputs, towards=towards: F.cross_entropy(outputs, towards))
    for name, one in own.items():
        close(found[name], one.weights)


@pytest.mark.parametrize("make", [FedMD, DSFL])
def test_fleets_take_the_same_steps(make: Any) -> None:
    one, _ = run(make(), 3)
    other, _ = run(make(), 3, engine="batched")
    for name in "abc":
        close(other[name], one[name].state_dict())


@pytest.mark.parametrize("make", [FedMD, DSFL])
def test_architectures_differ_and_outputs_may_not(make: Any) -> None:
    unlike = Federation({"a": tiny_participant(), "b": tiny_participant(hidden=7, seed=1)})
    fit(unlike, tiny_data("ab"), 2, make())
    wide = Federation({"a": tiny_participant(), "b": tiny_participant(classes=4, seed=1)})
    with pytest.raises(ValueError, match=r"combines outputs of all participants: 'a' has 3, 'b' has 4"):
        fit(wide, tiny_data("ab"), 1, make())


@pytest.mark.parametrize("make", [FedMD, DSFL])
def test_no_public_set_is_refused(make: Any) -> None:
    alone = FederatedDataModule({name: examples(8, seed=seed) for seed, name in enumerate("ab")})
    with pytest.raises(ValueError, match=r"\w+ needs a public set, and the data module has none"):
        fit(Federation({name: tiny_participant() for name in "ab"}), alone, 1, make())


def test_ds_fl_is_of_classes() -> None:
    data = {name: examples(12, classes=2, seed=seed) for seed, name in enumerate("ab")}
    binary = Federation({name: tiny_participant(classes=1, task="binary") for name in "ab"})
    module = FederatedDataModule(data, public=examples(10, seed=300))
    with pytest.raises(ValueError, match=r"'a': DSFL combines probabilities of classes, and its task is binary"):
        fit(binary, module, 1, DSFL())
    fit(binary, module, 2, FedMD())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FedMD(0), "digest_epochs: expected"),
        (lambda: FedMD(revisit_epochs=0), "revisit_epochs: expected"),
        (lambda: FedMD(weight=0.0), "weight: expected"),
        (lambda: DSFL("sharp"), "reduction: expected"),  # type: ignore[arg-type]
        (lambda: DSFL(temperature=0.0), "temperature: expected"),
        (lambda: DSFL(epochs=0), "epochs: expected"),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_entropy_reduction_leaves_a_certain_class_less_than_certain() -> None:
    # Of ten classes, e^10 / (e^10 + 9); the power is certain.
    certain = F.one_hot(torch.tensor([0]), 10).double()
    sent = {"a": {"probabilities": certain}}
    found = [DSFL(how).combine(sent, ["a"], {}, None, 0).state["probabilities"][0, 0] for how in ("era", "power")]  # type: ignore[arg-type,index]
    assert float(found[0]) == pytest.approx(0.99959, abs=1e-5)
    assert float(found[1]) == 1.0


def test_networks_without_gradients_on_the_public_set_are_trained_by_own_data_alone() -> None:
    frozen = Federation({name: tiny_participant(seed=seed) for seed, name in enumerate("ab")})
    frozen["a"].backbone = nn.Sequential(nn.Linear(4, 5), nn.ReLU()).requires_grad_(requires_grad=False)
    fit(frozen, tiny_data("ab"), 2, FedMD())
