"""FedRoD, MOON and IFCA: loops by hand, and refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed_lightning import FederatedDataModule, Federation, Participant
from hetfed_lightning.data import Examples
from hetfed_lightning.methods.published.fed_rod import FedRoD
from hetfed_lightning.methods.published.ifca import IFCA
from hetfed_lightning.methods.published.moon import MOON
from tests.federations import fit, tiny_data, tiny_participant
from tests.methods.published.by_hand import MOMENTUM, RATE, State, close, forward, hands, mean, run

EVERYTHING = {"shared": ("*",), "local_epochs": 2}


def balanced(logs: Tensor) -> Any:
    """Cross-entropy of outputs to which something is added."""

    def loss(features: Tensor, outputs: Tensor, target: Tensor, weights: Any) -> Tensor:
        del features, weights
        return F.cross_entropy(outputs + logs, target)

    return loss


@pytest.mark.parametrize("participation", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
def test_fed_rod_equals_a_loop_by_hand(participation: float) -> None:
    found, cohorts = run(FedRoD(0.7), 4, participation=participation, participant=EVERYTHING)
    own = hands()
    shared = own["a"].weights
    heads: dict[str, State] = {
        name: {"head.weight": torch.zeros(3, 5).double(), "head.bias": torch.zeros(3).double()} for name in own
    }
    speeds: dict[str, State] = {name: {} for name in own}
    for active in cohorts:
        for name in active:
            one = own[name]
            one.weights = dict(shared)
            shares = torch.bincount(one.target, minlength=3) / one.count
            for _ in range(2):
                features, outputs = forward(one.weights, one.inputs)
                leaves = {key: value.clone().requires_grad_() for key, value in heads[name].items()}
                personal = features @ leaves["head.weight"].T + leaves["head.bias"]
                loss = F.cross_entropy(outputs + personal, one.target)
                steps = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
                one.step(balanced(0.7 * shares.float().clamp(min=1e-12).log().double()))
                for key, step in steps.items():
                    speeds[name][key] = MOMENTUM * speeds[name][key] + step if key in speeds[name] else step
                    heads[name][key] = heads[name][key] - RATE * speeds[name][key]
        shared = mean([own[name].weights for name in active], [own[name].count for name in active])
    for name in own:
        close(found[name], shared)
        close(found[name].modules_of("FedRoD")["personal"], {"weight": heads[name]["head.weight"]})


def test_fed_rod_predicts_the_sum_and_measures_the_generic_outputs() -> None:
    made = Federation({name: tiny_participant(seed=place) for place, name in enumerate("abc")})
    found = fit(made, tiny_data(), 2, FedRoD()).callback_metrics
    assert {"val_accuracy/a", "val_accuracy.generic/a"} <= found.keys()


@pytest.mark.parametrize("participation", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
def test_moon_equals_a_loop_by_hand(participation: float) -> None:
    found, cohorts = run(MOON(1.5, 0.4), 4, participation=participation, participant=EVERYTHING)
    own = hands()
    shared = own["a"].weights
    previous: dict[str, State] = {}
    for active in cohorts:
        for name in active:
            one = own[name]
            one.weights = dict(shared)

            def loss(
                features: Tensor, outputs: Tensor, target: Tensor, weights: Any, one: Any = one, name: str = name
            ) -> Any:
                value = F.cross_entropy(outputs, target)
                if name not in previous:
                    return value
                near, far = (
                    (F.cosine_similarity(features, forward(weights, one.inputs)[0]) / 0.4).exp()
                    for weights in (shared, previous[name])  # noqa: B023 - called in this round
                )
                return value - 1.5 * (near / (near + far)).log().mean()

            for _ in range(2):
                one.step(loss)
            previous[name] = dict(one.weights)
        shared = mean([own[name].weights for name in active], [own[name].count for name in active])
    for name in own:
        close(found[name], shared)


def test_moon_compares_with_features_of_which_none_is_dropped() -> None:
    participant = Participant(nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5)), nn.Linear(5, 3))
    frame = MOON().modules(participant)["frame"].train()
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(frame(inputs), participant.backbone.eval()(inputs))
    assert [one.p for one in participant.backbone.modules() if isinstance(one, nn.Dropout)] == [0.5]


@pytest.mark.parametrize("participation", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
def test_ifca_equals_a_loop_by_hand(participation: float) -> None:
    found, cohorts = run(IFCA(2), 5, participation=participation, participant=EVERYTHING)
    own = hands()
    clusters = [dict(own[name].weights) for name in "ab"]
    chosen: dict[str, int] = {}

    def choose() -> None:
        for name, one in own.items():
            losses = [float(F.cross_entropy(forward(weights, one.inputs)[1], one.target)) for weights in clusters]
            chosen[name] = losses.index(min(losses))
            one.weights = dict(clusters[chosen[name]])

    choose()
    for active in cohorts:
        for name in active:
            for _ in range(2):
                own[name].step()
        for place in range(2):
            members = [name for name in active if chosen[name] == place]
            if members:
                clusters[place] = mean([own[name].weights for name in members], [own[name].count for name in members])
        choose()
    for name, one in own.items():
        close(found[name], one.weights)


def test_ifca_finds_who_has_the_same_task() -> None:
    # Two tasks: the class is the largest of three inputs, or the smallest. The clusters begin as opposites.
    def data(name: str, place: int) -> Examples:
        inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(place))
        return Examples(inputs, inputs[:, :3].argmax(1) if name in "ac" else inputs[:, :3].argmin(1))

    module = FederatedDataModule({name: data(name, place) for place, name in enumerate("abcd")}, batch_size=20)
    made = Federation({name: tiny_participant(shared=("*",), local_epochs=5) for name in "abcd"})
    with torch.no_grad():
        made["b"].head.get_parameter("weight").neg_()
    fit(made, module, 6, IFCA(2))
    weights = {name: made[name].state_dict()["head.weight"] for name in "abcd"}
    assert torch.equal(weights["a"], weights["c"])
    assert torch.equal(weights["b"], weights["d"])
    assert not torch.equal(weights["a"], weights["b"])


@pytest.mark.parametrize("make", [FedRoD, MOON, IFCA])
def test_fleets_take_the_same_steps(make: Any) -> None:
    one, _ = run(make(), 3, participant=EVERYTHING)
    other, _ = run(make(), 3, participant=EVERYTHING, engine="batched")
    for name in "abc":
        close(other[name], one[name].state_dict())


def test_who_cannot_take_part_is_refused() -> None:
    apart = Federation({name: tiny_participant(shared=("head",)) for name in "ab"})
    with pytest.raises(ValueError, match=r"'a': MOON compares features .* backbone.0.weight is not shared"):
        fit(apart, tiny_data("ab"), 1, MOON())
    with pytest.raises(ValueError, match=r"IFCA: a, b share weights of one layout and are fewer than clusters=3"):
        fit(Federation({name: tiny_participant() for name in "ab"}), tiny_data("ab"), 1, IFCA(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FedRoD(-1.0), "gamma: expected"),
        (lambda: MOON(-1.0), "weight: expected"),
        (lambda: MOON(temperature=0.0), "temperature: expected"),
        (lambda: IFCA(0), "clusters: expected"),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
