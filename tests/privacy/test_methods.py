"""Methods beside DP-SGD: losses by example inside the clip, terms of weights after the noise, what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from hetfed_lightning import BackboneAveraging, FederatedDataModule, Federation, Participant
from hetfed_lightning.local_training.dpsgd_steps import PrivateSteps
from hetfed_lightning.methods.messages import Combined
from hetfed_lightning.methods.method import Method
from hetfed_lightning.privacy import DPSGD
from tests.federations import examples, fit, sgd, tiny_data, tiny_federation, tiny_participant
from tests.methods.own_methods import Prototypes

pytestmark = pytest.mark.promise("private")

PRIVATE = DPSGD(noise_multiplier=1.5, max_grad_norm=0.3, delta=1e-3)
LR = 0.5

Parameters = dict[str, Tensor]


@pytest.fixture
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of zeros."""
    monkeypatch.setattr(PrivateSteps, "noise", staticmethod(lambda count: torch.zeros(count, dtype=torch.float64)))


def private(bound: float, **settings: Any) -> Participant:
    torch.manual_seed(3)
    backbone = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
    privacy = DPSGD(1.0, bound, 1e-3)
    return Participant(backbone, nn.Linear(5, 3), optimizer=sgd(LR), privacy=privacy, **settings)


def parameters_of(participant: Participant) -> Parameters:
    return {key: one.detach().clone() for key, one in participant.named_parameters()}


class Pulled(Method):
    """Features are pulled to zero, and the task's loss counts thrice."""

    exchanges = ()

    def example_loss(self, own: Tensor, inputs: Any, features: Tensor, *rest: Any) -> Tensor:
        return 3 * own + features.square().sum(1)


class Decayed(Method):
    """``||w||^2``."""

    exchanges = ()

    def weight_term(self, parameters: Any, context: Any) -> Tensor:
        return torch.stack([one.square().sum() for one in parameters.values()]).sum()


def private_gradients(model: Participant, at: Parameters, place: int, bound: float, *, shaped: bool) -> Parameters:
    """Sum over the examples of clipped gradients, each computed by itself, over their number."""
    data = examples(6, seed=place)
    total = {key: torch.zeros_like(one) for key, one in at.items()}
    for index in range(len(data)):
        inputs, target = data.batch(torch.tensor([index]))
        assert target is not None
        leaves = {key: one.clone().requires_grad_() for key, one in at.items()}
        backbone = {key.removeprefix("backbone."): one for key, one in leaves.items() if key.startswith("backbone")}
        features = functional_call(model.backbone, backbone, (inputs,))
        loss = F.cross_entropy(features @ leaves["head.weight"].T + leaves["head.bias"], target)
        if shaped:
            loss = 3 * loss + features.square().sum()
        found = torch.autograd.grad(loss, list(leaves.values()))
        norm = torch.cat([one.flatten() for one in found]).norm()
        for key, one in zip(total, found, strict=True):
            total[key] += one * min(1.0, bound / float(norm)) / len(data)
    return total


def ends_at(participant: Participant, expected: Parameters) -> None:
    torch.testing.assert_close(parameters_of(participant), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("_silent")
@pytest.mark.parametrize("bound", [1e-3, 0.5, 1e3])
def test_a_loss_by_example_is_inside_the_clip(bound: float) -> None:
    participant = private(bound)
    start = parameters_of(participant)
    gradients = private_gradients(participant, start, 0, bound, shaped=True)
    fit(Federation({"a": participant}), FederatedDataModule({"a": examples(6)}, batch_size=6), 1, Pulled())
    ends_at(participant, {key: one - LR * gradients[key] for key, one in start.items()})


@pytest.mark.usefixtures("_silent")
@pytest.mark.parametrize("bound", [1e-3, 1e3])
def test_a_term_of_weights_is_added_after_the_noise(bound: float) -> None:
    participant = private(bound)
    start = parameters_of(participant)
    gradients = private_gradients(participant, start, 0, bound, shaped=True)
    data = FederatedDataModule({"a": examples(6)}, batch_size=6)
    fit(Federation({"a": participant}), data, 1, Decayed(), Pulled())
    ends_at(participant, {key: one - LR * (gradients[key] + 2 * one) for key, one in start.items()})


@pytest.mark.usefixtures("_silent")
def test_the_proximal_term_is_one() -> None:
    bound, mu, names = 0.1, 0.7, "ab"
    parts = {name: private(bound, local_epochs=2) for name in names}
    states = {name: parameters_of(one) for name, one in parts.items()}
    shared = {key: one for key, one in states["a"].items() if key.startswith("backbone")}  # Of all, from the start.
    for _ in range(2):
        for place, name in enumerate(names):
            for _ in range(2):
                gradients = private_gradients(parts[name], states[name], place, bound, shaped=False)
                states[name] = {
                    key: one - LR * (gradients[key] + (mu * (one - shared[key]) if key in shared else 0))
                    for key, one in states[name].items()
                }
        shared = {key: torch.stack([states[name][key] for name in names]).mean(0) for key in shared}
        states = {name: states[name] | shared for name in names}
    data = FederatedDataModule({name: examples(6, seed=place) for place, name in enumerate(names)}, batch_size=6)
    fit(Federation(parts), data, 2, BackboneAveraging(proximal=mu))
    for name in names:
        ends_at(parts[name], states[name])


def test_batches_may_be_empty() -> None:
    participant = tiny_participant(privacy=PRIVATE)
    data = FederatedDataModule({"a": examples(30)}, batch_size=1)
    fit(Federation({"a": participant}), data, 1, Pulled(), Decayed())
    assert participant.ledger.releases == 30
    assert all(torch.isfinite(one).all() for one in participant.parameters())


# What would void it


class Mixing(Method):
    """Pulled to the mean of the batch; from round ``since`` on, when something has been received."""

    def __init__(self, since: int) -> None:
        self.since = since

    def send(self, *args: Any) -> Any:
        return {"one": torch.ones(1)}

    def combine(self, sent: Any, *args: Any) -> Combined:
        return Combined(next(iter(sent.values())))

    def example_loss(self, own: Tensor, inputs: Any, features: Tensor, *rest: Any) -> Tensor:
        if self.since and not rest[-1].received:
            return own
        return own + (features - features.mean(0)).square().sum(1)


@pytest.mark.parametrize("since", [0, 1])
def test_a_loss_that_mixes_examples_is_refused_before_a_step_with_it(since: int) -> None:
    federation = tiny_federation(participant={"privacy": PRIVATE})
    message = r"participant 'a': privacy=DPSGD\(...\) is not possible beside Mixing: the gradient of an example's loss"
    with pytest.raises(ValueError, match=message):
        fit(federation, tiny_data(), 3, Mixing(since))
    assert federation["a"].ledger.releases == 3 * since


class Telling(Mixing):
    """Sends class counts."""

    def send(self, participant: Any, data: Any, work: Any, context: Any) -> Any:
        context.memory["seen"] = torch.ones(1)
        return {"counts": torch.bincount(data.targets, minlength=3)}


@pytest.mark.parametrize("method", [Prototypes, lambda: Telling(0)])
def test_messages_made_of_examples_are_refused_before_the_first_step(method: Any) -> None:
    federation = tiny_federation()
    federation["b"].privacy = PRIVATE
    with pytest.raises(ValueError, match=r"participant 'b': privacy=DPSGD\(...\) is not possible beside (Proto|Tell)"):
        fit(federation, tiny_data(), 1, method())
    assert federation["b"].ledger.releases == 0
    assert federation.local["a"].progress == 0


def test_a_rehearsal_leaves_no_trace() -> None:
    class Counting(Mixing):
        def send(self, participant: Any, data: Any, work: Any, context: Any) -> Any:
            context.memory["calls"] = context.memory.get("calls", torch.zeros(1)) + 1
            return {"calls": context.memory["calls"]}

        def example_loss(self, own: Tensor, *args: Any) -> Tensor:
            return own

    method = Counting(0)
    federation = tiny_federation(participant={"privacy": PRIVATE})
    fit(federation, tiny_data(), 2, method)
    assert method.context_of(federation, federation["a"]).memory["calls"] == 2
