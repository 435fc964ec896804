"""What a callback changes between two steps is heeded by every engine: taken over, or its owner trains by itself."""

import logging
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedCallback,
    Federation,
    FederationView,
    Participant,
    Phase,
    Transfer,
)
from hetfed_lightning.tasks import MulticlassTask
from tests.federations import fit, tiny_data, tiny_federation
from tests.fleets.kin import OPTIMIZERS, classes, furthest, members, network, trained
from tests.fleets.spies import alone, lines

Change = Callable[[Federation, Participant], Any]


class Between(FederatedCallback):
    """Changes one participant ahead of the step of one index in the first round, and undoes it as the round ends."""

    phase = Phase.MONITORING

    def __init__(self, change: Change, name: str = "b", batch: int = 1) -> None:
        self.change, self.name, self.batch = change, name, batch
        self.undo: Callable[[], Any] | None = None

    def on_train_batch_start(self, trainer: L.Trainer, federation: Any, batch: Any, batch_idx: int) -> None:
        if federation.current_round == 0 and batch_idx == self.batch:
            undo = self.change(federation, federation[self.name])
            self.undo = undo if callable(undo) and not isinstance(undo, nn.Module) else None

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        if self.undo is not None:
            self.undo()
            self.undo = None


pytestmark = pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training")


class Moody(nn.Module):
    """Computes otherwise in evaluation mode, and has a buffer, a number and a configuration that it computes with."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.still = nn.Parameter(torch.ones((), dtype=torch.float64), requires_grad=False)
        self.shift, self.hidden = 0.5, torch.zeros((), dtype=torch.float64)
        self.sizes, self.settings = [1.0], Settings()

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.scale * self.still + self.shift + self.hidden
        return (y if self.training else 3 * y) * self.sizes[0] * self.settings.factor


class Settings:
    """As a model's configuration."""

    factor = 1.0

    def __init__(self) -> None:
        self.factor = 1.0


def moody() -> nn.ModuleDict:
    parts = network()
    parts["backbone"].append(Moody())  # type: ignore[operator]
    return parts


def replaced(federation: Federation, participant: Participant) -> None:
    """The optimizer by another, which a fleet could not step with the rest."""
    federation.local["b"].optimizers[0] = torch.optim.Adam(participant.parameters(), lr=0.01)


def swapped(_: Federation, participant: Participant) -> Callable[[], None]:
    """As methods do that look ahead: other weights for a while, and then the own ones, which nobody has touched."""
    weight: Any = participant.head.weight
    own = weight.data
    weight.data = own + 1.0

    def back() -> None:
        weight.data = own

    return back


def reloaded(federation: Federation, _: Participant) -> None:
    optimizer = federation.local["b"].optimizers[0]
    optimizer.load_state_dict(deepcopy(optimizer.state_dict()))
    for state in optimizer.state.values():
        state["momentum_buffer"].mul_(2)


def spoil(participant: Participant) -> None:
    bias: Any = participant.head.bias
    bias.grad.zero_()


def trebled(parameter: Any) -> None:
    parameter.grad.mul_(3)


def first(participant: Participant) -> Any:
    return participant.backbone.get_submodule("0")


def mood(participant: Participant) -> Any:
    return participant.backbone.get_submodule("4")


def group(federation: FederationView) -> dict[str, Any]:
    found: dict[str, Any] = federation.local["b"].optimizers[0].param_groups[0]
    return found


def own_step(participant: Participant) -> None:
    def training_step(batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = participant.task.loss(participant(batch[0]), batch[1])
        return 2 * loss

    participant.training_step = training_step  # type: ignore[method-assign]


def own_forward(participant: Participant) -> None:
    module = participant.backbone.get_submodule("1")
    module.forward = lambda x: 2 * torch.relu(x)


def attribute(module: str, **values: Any) -> Change:
    def change(_: Federation, participant: Participant) -> None:
        for key, value in values.items():
            setattr(participant.get_submodule(module), key, value)

    return change


LEAVES: dict[str, tuple[Change, str]] = {
    "frozen": (lambda _, p: p.backbone.requires_grad_(False), "backbone.0.weight has been frozen"),
    "momentum": (lambda f, _: group(f).update(momentum=0.0), "momentum of its optimizer has been changed"),
    "nesterov": (lambda f, _: group(f).update(nesterov=True), "nesterov of its optimizer has been changed"),
    "maximised": (lambda f, _: group(f).update(maximize=True), "maximize of its optimizer has been changed"),
    "optimizer": (replaced, "its optimizer has been replaced"),
    "forgotten state": (lambda f, _: f.local["b"].optimizers[0].state.clear(), "its optimizer has another state"),
    "loaded state": (reloaded, "its optimizer has other parameter groups"),
    "data": (swapped, "the data of head.weight has been replaced"),
    "parameter": (
        lambda _, p: setattr(p.head, "bias", nn.Parameter(torch.ones(3, dtype=torch.float64))),
        "bias has been replaced",
    ),
    "module": (lambda _, p: setattr(p.backbone, "1", nn.Sigmoid()), "1 has been replaced"),
    "forward hook": (
        lambda _, p: first(p).register_forward_hook(lambda m, i, o: 0.5 * o).remove,
        "backbone.0 (Linear) has hooks",
    ),
    "hook of the participant": (
        lambda _, p: p.register_forward_hook(lambda m, i, o: 0.5 * o).remove, "it has hooks",
    ),
    "hook of a gradient": (lambda _, p: first(p).weight.register_hook(lambda g: 3 * g).remove,
                           "backbone.0.weight has hooks"),
    "hook after a gradient": (
        lambda _, p: first(p).weight.register_post_accumulate_grad_hook(trebled).remove,
        "backbone.0.weight has hooks",
    ),
    "hook of an optimizer": (
        lambda f, p: f.local["b"].optimizers[0].register_step_pre_hook(lambda *_: spoil(p)).remove,
        "its optimizer has hooks",
    ),
    "hook of everyone": (
        lambda *_: nn.modules.module.register_module_forward_hook(
            lambda m, i, o: 0.5 * o if isinstance(m, nn.Linear) else None
        ).remove,
        "hooks are registered for all modules or optimizers",
    ),
    "training_step": (lambda _, p: own_step(p), "its training_step is its own"),
    "forward": (lambda _, p: own_forward(p), "backbone.1 (ReLU) has attributes or a class of its own"),
    "task": (lambda _, p: setattr(p, "task", MulticlassTask(label_smoothing=0.3)), "task has been replaced"),
    "smoothing": (lambda _, p: setattr(p.task, "label_smoothing", 0.3), "label_smoothing of task"),
    "transform": (lambda _, p: setattr(p, "transform", lambda x: 2 * x), "its transform has been changed"),
    "accumulation": (
        lambda _, p: setattr(p, "accumulate_grad_batches", 2), "its accumulate_grad_batches has been changed",
    ),
}  # fmt: skip
"""Changes after which somebody trains alone for the rest of the round, and what is said."""

MOODS: dict[str, tuple[Change, str]] = {
    "mode": (lambda _, p: p.backbone.eval(), "backbone (Sequential) is in evaluation mode"),
    "number": (attribute("backbone.4", shift=2.0), "shift of backbone.4 (Moody) has been changed"),
    "tensor": (attribute("backbone.4", hidden=torch.ones((), dtype=torch.float64)), "hidden of backbone.4 (Moody)"),
    "tensor in place": (lambda _, p: mood(p).hidden.add_(1), "a buffer or a frozen weight"),
    "buffer": (attribute("backbone.4", scale=torch.full((), 2, dtype=torch.float64)), "scale has been replaced"),
    "buffer in place": (lambda _, p: mood(p).scale.mul_(2), "a buffer or a frozen weight"),
    "frozen in place": (lambda _, p: mood(p).still.data.mul_(2), "a buffer or a frozen"),
    "list in place": (lambda _, p: mood(p).sizes.append(1.0), "sizes of backbone.4"),
    "configuration": (
        lambda _, p: setattr(mood(p).settings, "factor", 2.0), "one of its modules has been",
    ),
}  # fmt: skip
"""The same of a network that is no chain of linear layers."""

SLOW = {"nesterov", "maximised", "loaded state", "module", "hook after a gradient", "smoothing", "accumulation",
        "hook of the participant", "task", "tensor", "list in place", "frozen in place", "configuration"}  # fmt: skip
"""Left to `-m slow`: relatives of others."""


def cases(battery: dict[str, tuple[Change, str]]) -> list[Any]:
    return [pytest.param(*case, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
            for name, case in battery.items()]  # fmt: skip


def ends(engine: str, change: Change, make: Any = network, *, optimizer: str = "momentum", **settings: Any) -> Any:
    """Where one participant after another leads, and where the engine does."""
    return [
        trained(each, classes(torch.float64), members(OPTIMIZERS[optimizer], make, **settings), Between(change),
                BackboneAveraging(), precision="64-true")
        for each in ("sequential", engine)
    ]  # fmt: skip


def states(federation: Federation) -> list[Tensor]:
    """Those of everyone's optimizer."""
    return [value for local in federation.local.values() for state in local.optimizers[0].state.values()
            for value in state.values() if value is not None]  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), cases(LEAVES))
def test_whoever_is_changed_trains_by_itself(change: Change, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        one, other = ends("batched", change)
    assert furthest(other, one) < 1e-10
    for mine, theirs in zip(states(one), states(other), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)
    assert f"round 0, batch 1: {'b' if 'all modules' not in reason else 'b, d, a, c'}: by " in lines(caplog)
    assert reason in lines(caplog)


@pytest.mark.parametrize(("change", "reason"), cases(MOODS))
def test_networks_of_another_kind(change: Change, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        one, other = ends("vmap", change, moody)
    assert furthest(other, one) < 1e-10
    assert f"batch 1: b: by itself for the rest of the round, since {reason}" in lines(caplog)


@pytest.mark.parametrize(
    ("change", "optimizer"),
    [
        (lambda f, _: group(f).update(lr=0.01), "momentum"),
        (lambda f, _: group(f).update(weight_decay=0.5), "sgd"),
        (lambda f, _: group(f).update(betas=(0.5, 0.6), eps=0.1), "adam"),
        (lambda _, p: setattr(p, "gradient_clip_val", 0.01), "sgd"),
        (lambda _, p: p.head.weight.data.mul_(0.5), "momentum"),
        (lambda f, _: [s["exp_avg"].zero_() for s in f.local["b"].optimizers[0].state.values()], "adam"),
    ],
    ids=["rate", "decay", "betas", "clip", "weights in place", "state in place"],
)
def test_what_can_be_taken_over_is(change: Change, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    who = alone(monkeypatch)
    one, other = ends("batched", change, optimizer=optimizer)
    assert furthest(other, one) < 1e-10
    assert who.count("b") == 2 * 4  # Of the sequential run: in the other nobody leaves its seat.


def test_a_rate_that_is_a_tensor_is_followed_in_place() -> None:
    def optimizer(rate: float) -> Any:
        return lambda p: torch.optim.SGD(p, lr=torch.tensor(rate, dtype=torch.float64))

    found = []
    for engine in ("sequential", "batched"):
        parts = members(optimizer)
        change = Between(lambda f, _: group(f)["lr"].mul_(0.1))
        found.append(trained(engine, classes(torch.float64), parts, change, precision="64-true"))
    assert furthest(found[1], found[0]) < 1e-10


def test_the_others_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    who = alone(monkeypatch)
    trained("batched", classes(torch.float64), members(OPTIMIZERS["sgd"]),
            Between(lambda _, p: p.head.register_forward_hook(print).remove, "a"), precision="64-true")  # fmt: skip
    # "a" has three batches of five, of which one is trained before; "c" runs out after two. Then the next round.
    assert who == ["a", "a"]


def test_a_mode_is_that_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in one mode form a fleet, and its network computes in that mode."""
    found = []
    for engine in ("sequential", "vmap"):
        parts = members(OPTIMIZERS["sgd"], moody)
        for name in "ab":
            parts[name].backbone.get_submodule("4").eval()
        found.append(trained(engine, classes(torch.float64), parts, precision="64-true"))
    assert furthest(found[1], found[0]) < 1e-10
    assert len(found[1].fleets.chosen) == 2


def test_tensors_that_are_in_no_state_tell_kinds_apart() -> None:
    found = []
    for engine in ("sequential", "vmap"):
        parts = members(OPTIMIZERS["sgd"], moody)
        for place, one in enumerate(parts.values()):
            mood(one).hidden = torch.tensor(float(place // 2), dtype=torch.float64)
        found.append(trained(engine, classes(torch.float64), parts, precision="64-true"))
    assert furthest(found[1], found[0]) < 1e-10


@pytest.mark.parametrize("change", ["between rounds", "at the end of a round"])
def test_changes_outside_of_the_steps(change: str) -> None:
    class Late(FederatedCallback):
        phase = Phase.GUARD

        def on_round_start(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
            if change == "between rounds" and round_index == 1:
                group(federation).update(momentum=0.5)
                federation["d"].backbone.requires_grad_(False)

        def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
            if change == "at the end of a round":
                first(federation["b"]).register_forward_hook(lambda m, i, o: 2 * o)
                federation["d"].backbone.requires_grad_(False)

    found = [
        trained(engine, classes(torch.float64, public=10), members(OPTIMIZERS["sgd"]), Late(),
                EnsembleDistillation(batch_size=4), BackboneAveraging(), precision="64-true")
        for engine in ("sequential", "batched")
    ]  # fmt: skip
    assert furthest(found[1], found[0]) < 1e-10


def test_a_hook_is_heard_in_a_validation() -> None:
    heard: list[int] = []

    class Listens(L.Callback):
        def on_validation_start(self, trainer: L.Trainer, federation: Any) -> None:
            self.handles = [one.head.register_forward_hook(lambda m, i, o: heard.append(len(o)))
                            for one in federation.members().values()]  # fmt: skip

        def on_validation_end(self, trainer: L.Trainer, federation: Any) -> None:
            for handle in self.handles:
                handle.remove()

    counts = []
    for engine in ("sequential", "batched"):
        heard.clear()
        fit(tiny_federation(engine=engine), tiny_data(), 1, Listens())
        counts.append(sorted(heard))
    assert counts[0] == counts[1] != []


def test_frozen_weights_that_an_average_writes_alike_keep_the_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    who = alone(monkeypatch)
    trained("vmap", classes(torch.float64), members(OPTIMIZERS["sgd"], moody), precision="64-true", rounds=3)
    assert who == []


def test_a_lambda_callback_is_watched_too() -> None:
    def freeze(trainer: L.Trainer, federation: Any, batch: Any, batch_idx: int) -> None:
        federation["b"].backbone.requires_grad_(batch_idx < 2)

    found = [
        trained(engine, classes(torch.float64), members(OPTIMIZERS["momentum"]),
                LambdaCallback(on_train_batch_start=freeze), precision="64-true")
        for engine in ("sequential", "batched")
    ]  # fmt: skip
    assert furthest(found[1], found[0]) < 1e-10


def test_gradients_that_a_callback_leaves_are_in_no_step() -> None:
    """As in Lightning, which clears them before each backward pass."""

    class Probes(FederatedCallback):
        def on_train_batch_start(self, trainer: L.Trainer, federation: Any, batch: Any, batch_idx: int) -> None:
            for participant in federation.members().values():
                participant.head.weight.square().sum().backward()

    found = [
        trained(engine, classes(torch.float64), members(OPTIMIZERS["sgd"]), *callbacks, precision="64-true")
        for engine in ("sequential", "batched") for callbacks in ([Probes()], [FederatedCallback()])
    ]  # fmt: skip
    assert all(furthest(one, found[0]) < 1e-10 for one in found)


@pytest.mark.parametrize("engine", ["batched", "vmap"])
def test_what_was_held_still_has_made_fewer_steps(engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Adam divides by powers of the number of steps, which is then another for the body than for the head."""
    found = []
    for each in ("sequential", engine):
        federation = Federation(members(OPTIMIZERS["adam"], transfer=Transfer(frozen_rounds=1)), engine=each)
        with caplog.at_level(logging.INFO, "hetfed_lightning"):
            fit(federation, classes(torch.float64), 3, precision="64-true")
        found.append(federation)
    assert furthest(found[1], found[0]) < 1e-10
    assert f"Fleets: 4 participants (b, d, a, c; Sequential + Linear): {engine}" in lines(caplog)


def test_a_class_weight_that_is_changed_is_its_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet computes with a copy of the task of its first member."""
    found = []
    for engine in ("sequential", "batched"):
        tasks = {name: MulticlassTask(class_weights=[1.0, 2.0, 3.0]) for name in "abcd"}
        change = Between(lambda _, p: p.task.get_buffer("class_weights").mul_(torch.tensor([1.0, 5.0, 1.0])))
        found.append(trained(engine, classes(torch.float64), members(OPTIMIZERS["sgd"], task=tasks), change,
                             precision="64-true"))  # fmt: skip
    assert furthest(found[1], found[0]) < 1e-10


def test_a_callback_that_only_looks_may_say_so() -> None:
    class Looks(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, federation: Any, batch: Any, batch_idx: int) -> None:
            self.seen = batch_idx

    class SaysSo(Looks):
        changes_participants = False

    for callback, watched in ((Looks(), True), (SaysSo(), False)):
        federation = tiny_federation("ab")
        fit(federation, tiny_data("ab"), 1, callback)
        assert federation.fleets.is_watchful is watched
