"""FedProto, FedTGP, FD and FedGH: loops by hand, the pooled mean, refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed_lightning import FederatedDataModule, Federation
from hetfed_lightning.methods.class_means import mean_over_owners
from hetfed_lightning.methods.published import fed_tgp
from hetfed_lightning.methods.published.fed_distill import FedDistill
from hetfed_lightning.methods.published.fed_gh import FedGH
from hetfed_lightning.methods.published.fed_proto import FedProto
from hetfed_lightning.methods.published.fed_tgp import FedTGP, TrainablePrototypes
from tests.federations import examples, fit, line, tiny_data, tiny_participant, values
from tests.methods.published.by_hand import close, forward, hands, run, tensors

CLASSES = 3


def by_class(one: Any, *, of_outputs: bool = False) -> dict[int, tuple[Tensor, int]]:
    """Mean feature or output of each class that a participant has, and how many examples it is of."""
    values = forward(one.weights, one.inputs)[int(of_outputs)]
    return {c: (values[one.target == c].mean(0), int((one.target == c).sum())) for c in set(one.target.tolist())}


@pytest.mark.parametrize("participation", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
@pytest.mark.parametrize("weighting", ["samples", "uniform"])
def test_fed_proto_equals_a_loop_by_hand(weighting: Any, participation: float) -> None:
    method = FedProto(2.0, weighting=weighting)
    found, cohorts = run(method, 4, participation=participation, participant={"local_epochs": 2})
    own = hands()
    prototypes: dict[int, Tensor] = {}

    def loss(features: Tensor, outputs: Tensor, target: Tensor, weights: Any) -> Any:
        del weights
        value = F.cross_entropy(outputs, target)
        if prototypes:
            value = value + 2.0 * sum(
                (features[row] - prototypes[c]).square().mean() for row, c in enumerate(target.tolist())
            ) / len(target)
        return value

    for active in cohorts:
        for name in active:
            for _ in range(2):
                own[name].step(loss)
        told = [by_class(own[name]) for name in active]
        for c in range(CLASSES):
            parts = [one[c] for one in told if c in one]
            shares = [float(count) if weighting == "samples" else 1.0 for _, count in parts]
            if parts:
                prototypes[c] = sum(share * mean for share, (mean, _) in zip(shares, parts, strict=True)) / sum(shares)  # type: ignore[assignment]
    for name, one in own.items():
        close(found[name], one.weights)


@pytest.mark.parametrize("participation", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
@pytest.mark.parametrize("distance", ["cross_entropy", "squared"])
def test_fed_distill_equals_a_loop_by_hand(distance: Any, participation: float) -> None:
    method = FedDistill(0.8, distance=distance)
    found, cohorts = run(method, 4, participation=participation, participant={"local_epochs": 2})
    own = hands()
    theirs: dict[str, dict[int, Tensor]] = {name: {} for name in own}

    def loss_of(name: str) -> Any:
        def loss(features: Tensor, outputs: Tensor, target: Tensor, weights: Any) -> Any:
            del features, weights
            value = F.cross_entropy(outputs, target)
            for row, c in enumerate(target.tolist()):
                if c in theirs[name]:
                    apart = (
                        (outputs[row] - theirs[name][c]).square().mean()
                        if distance == "squared"
                        else -(theirs[name][c].softmax(0) * outputs[row].softmax(0).log()).sum()
                    )
                    value = value + 0.8 * apart / len(target)
            return value

        return loss

    for active in cohorts:
        for name in active:
            for _ in range(2):
                own[name].step(loss_of(name))
        told = {name: by_class(own[name], of_outputs=True) for name in active}
        for name in own:
            others = [one for other, one in told.items() if other != name]
            theirs[name] = {
                c: torch.stack([one[c][0] for one in others if c in one]).mean(0)
                for c in range(CLASSES)
                if any(c in one for one in others)
            }
    for name, one in own.items():
        close(found[name], one.weights)


@pytest.mark.parametrize("participation", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
def test_fed_gh_equals_a_loop_by_hand(participation: float) -> None:
    found, cohorts = run(FedGH(0.3, 2), 4, participation=participation)
    own = hands()
    head = {"head.weight": torch.zeros(3, 5).double(), "head.bias": torch.zeros(3).double()}
    for active in cohorts:
        for name in active:
            own[name].step()
        for _ in range(2):
            for name in active:
                told = by_class(own[name])
                leaves = {key: one.clone().requires_grad_() for key, one in head.items()}
                inputs = torch.stack([told[c][0] for c in sorted(told)])
                outputs = inputs @ leaves["head.weight"].T + leaves["head.bias"]
                value = F.cross_entropy(outputs, torch.tensor(sorted(told)))
                steps = torch.autograd.grad(value, list(leaves.values()))
                head = {key: head[key] - 0.3 * step for key, step in zip(head, steps, strict=True)}
        for one in own.values():
            one.weights |= {key: value.clone() for key, value in head.items()}
    for name, one in own.items():
        close(found[name], one.weights)


class Even(TrainablePrototypes):
    """Prototypes that begin with evenly spread numbers, so that a loop by hand can begin with them."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(classes, width)
        with torch.no_grad():
            for place, one in enumerate(self.parameters()):
                one.copy_(torch.linspace(-1, 1, one.numel()).roll(place).view_as(one))


@pytest.mark.parametrize("participation", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
def test_fed_tgp_equals_a_loop_by_hand(participation: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fed_tgp, "TrainablePrototypes", Even)
    method = FedTGP(1.5, server_epochs=7, server_lr=0.02, most_margin=0.4)
    found, cohorts = run(method, 4, participation=participation, participant={"local_epochs": 2})
    own = hands()
    leaves = {key: one.detach().double() for key, one in Even(CLASSES, 5).named_parameters()}
    known: set[int] = set()

    def prototypes(weights: Any) -> Any:
        hidden = (weights["vectors"] @ weights["network.0.weight"].T + weights["network.0.bias"]).clamp(min=0)
        return hidden @ weights["network.2.weight"].T + weights["network.2.bias"]

    def loss(features: Tensor, outputs: Tensor, target: Tensor, weights: Any) -> Any:
        del weights
        value = F.cross_entropy(outputs, target)
        for row, c in enumerate(target.tolist()):
            if c in known:
                value = value + 1.5 * (features[row] - prototypes(leaves)[c]).square().mean() / len(target)
        return value

    for active in cohorts:
        for name in active:
            for _ in range(2):
                own[name].step(loss)
        told = [by_class(own[name]) for name in active]
        seen = [(one[c][0], c) for one in told for c in sorted(one)]
        centres = {c: torch.stack([mean for mean, d in seen if d == c]).mean(0) for _, c in seen}
        gaps = [min(float((centres[c] - centres[d]).norm()) for d in centres if d != c) for c in centres]
        margin = min(max(gaps), 0.4)
        for _ in range(7):
            here = {key: one.clone().requires_grad_() for key, one in leaves.items()}
            losses = []
            for mean, c in seen:
                apart = torch.stack(
                    [(mean - one).norm() + (margin if c == d else 0.0) for d, one in enumerate(prototypes(here))]
                )
                losses.append(apart[c] + (-apart).exp().sum().log())
            steps = torch.autograd.grad(torch.stack(losses).mean(), list(here.values()))
            leaves = {key: leaves[key] - 0.02 * step for key, step in zip(here, steps, strict=True)}
        known |= centres.keys()
    for name, one in own.items():
        close(found[name], one.weights)


@pytest.mark.slow
def test_fed_tgp_pulls_features_towards_the_prototypes_of_their_classes() -> None:
    def right(weight: float) -> float:
        found, _ = run(FedTGP(weight, server_epochs=400, server_lr=0.05), 8, participant={"local_epochs": 4})
        shares = []
        for place, name in enumerate("abc"):
            inputs, target = tensors(examples(12 + 4 * place, seed=place))
            (method,) = [one for one in found.trainer.callbacks if isinstance(one, FedTGP)]
            apart = torch.cdist(found[name].eval().features_of(inputs), method.carried.last("a")["prototypes"])
            shares.append(float((apart.argmin(1) == target).double().mean()))
        return min(shares)

    assert right(10.0) > max(right(0.0), 0.7)


def test_weighted_means_of_owners_are_the_mean_of_the_pool() -> None:
    generator = torch.Generator().manual_seed(0)
    values, target = (
        torch.randn(30, 4, generator=generator, dtype=torch.float64),
        torch.randint(3, (30,), generator=generator),
    )
    owner = torch.randint(3, (30,), generator=generator)
    sent = []
    for k in range(3):
        members = F.one_hot(target[owner == k], 4).double()
        counts = members.sum(0)
        sent.append({"means": members.T @ values[owner == k] / counts.clamp(min=1)[:, None], "counts": counts})
    found = mean_over_owners(sent, by_samples=True)
    for c in range(3):
        torch.testing.assert_close(found["prototypes"][c], values[target == c].mean(0), rtol=1e-12, atol=1e-13)
    assert found["known"].tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("make", [FedProto, FedTGP, FedDistill, FedGH])
def test_fleets_take_the_same_steps(make: Any) -> None:
    one, _ = run(make(), 3)
    other, _ = run(make(), 3, engine="batched")
    for name in "abc":
        state = one[name].state_dict()
        assert all(torch.allclose(other[name].state_dict()[key], state[key], rtol=1e-9, atol=1e-10) for key in state)


@pytest.mark.parametrize("predicts", ["head", "prototype"])
def test_both_predictions_are_measured(predicts: Any) -> None:
    made = Federation({name: tiny_participant(seed=place) for place, name in enumerate("abc")})
    other = "prototype" if predicts == "head" else "head"
    found = fit(made, tiny_data(), 2, FedProto(predicts=predicts)).callback_metrics
    assert {f"val_accuracy.{other}/a", "val_accuracy/a"} <= found.keys()


@pytest.mark.parametrize("make", [FedProto, FedTGP, FedDistill, FedGH])
def test_who_cannot_take_part_is_refused(make: Any) -> None:
    regression = Federation({name: line() for name in "ab"})
    data = FederatedDataModule({name: values(8, seed=seed) for seed, name in enumerate("ab")})
    with pytest.raises(ValueError, match=r"'a': \w+ has a vector for each class, and its task is regression"):
        fit(regression, data, 1, make(), precision="64-true")
    if make is not FedDistill:
        wide = Federation({"a": tiny_participant(hidden=4), "b": tiny_participant(hidden=5)})
        with pytest.raises(ValueError, match=r"compares features of all .*'a' has 4 for each of 3 classes, 'b' has 5"):
            fit(wide, tiny_data("ab"), 1, make())


def test_fed_gh_needs_linear_heads() -> None:
    deep = Federation({name: tiny_participant() for name in "ab"})
    deep["b"].head = nn.Sequential(nn.Linear(5, 3))
    with pytest.raises(ValueError, match=r"'b': FedGH trains a linear head with a bias .* its head is a Sequential"):
        fit(deep, tiny_data("ab"), 1, FedGH())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FedProto(-1.0), "weight: expected"),
        (lambda: FedProto(weighting="equal"), "weighting: expected"),  # type: ignore[arg-type]
        (lambda: FedProto(predicts="both"), "predicts: expected"),  # type: ignore[arg-type]
        (lambda: FedTGP(server_epochs=0), "server_epochs: expected"),
        (lambda: FedTGP(server_lr=0.0), "server_lr: expected"),
        (lambda: FedDistill(float("nan")), "weight: expected"),
        (lambda: FedDistill(distance="kl"), "distance: expected"),  # type: ignore[arg-type]
        (lambda: FedGH(0.0), "server_lr: expected"),
        (lambda: FedGH(server_epochs=0), "server_epochs: expected"),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [FedProto, FedTGP, FedDistill, FedGH])
def test_no_public_set_is_needed(make: Any) -> None:
    ends = []
    for public in (None, examples(10, seed=300)):
        made = Federation({name: tiny_participant(seed=place) for place, name in enumerate("ab")})
        fit(made, tiny_data("ab", evaluated=False, public=public), 2, make())
        ends.append(made["b"].state_dict())
    assert all(torch.equal(one, ends[1][key]) for key, one in ends[0].items())
