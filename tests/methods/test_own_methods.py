"""Methods of a user's own in one process, against loops by hand that share no code with them."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed_lightning import BackboneAveraging, FederatedCallback, FederatedDataModule, Federation
from hetfed_lightning.data import Examples
from hetfed_lightning.methods.local_carrier import LocalCarrier
from hetfed_lightning.methods.messages import Combined, Exchange, MessageError, PerParticipant
from tests.federations import (
    Snapshots,
    equal,
    examples,
    fit,
    line,
    sgd,
    state_of,
    tiny_data,
    tiny_federation,
    tiny_participant,
    values,
)
from tests.methods.own_methods import ControlVariates, InBall, Prototypes, Rumour

ROUNDS = 3


def close(one: Any, other: Any) -> None:
    """Equal but for rounding in float64."""
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def tensors_of(found: Examples) -> tuple[Tensor, Tensor]:
    """Inputs and targets in float64, where they are no classes."""
    assert isinstance(found.inputs, Tensor)
    assert found.targets is not None
    return found.inputs.double(), found.targets


def lines(epochs: int = 1, **settings: Any) -> Federation:
    """Regressions of whom everything is shared, all starting from zero."""
    participants = {name: line(optimizer=sgd(0.05), local_epochs=epochs) for name in "abc"}
    return Federation(participants, engine="sequential", **settings)


def line_data() -> FederatedDataModule:
    return FederatedDataModule(
        {name: values(4 + 2 * place, seed=place) for place, name in enumerate("abc")}, batch_size=100
    )


def scaffold_by_hand(rounds: int, epochs: int, rate: float) -> Tensor:
    """Shared weights after full-batch SCAFFOLD, option II, uniform means."""
    data = {name: values(4 + 2 * place, seed=place) for place, name in enumerate("abc")}
    shared = torch.zeros(1, 3, dtype=torch.float64)
    control = torch.zeros_like(shared)
    own = {name: torch.zeros_like(shared) for name in data}
    for _ in range(rounds):
        ends, changes = [], []
        for name, one in data.items():
            inputs, targets = tensors_of(one)
            weight = shared.clone()
            for _ in range(epochs):
                gradient = 2 * ((inputs @ weight.T - targets).T @ inputs) / len(inputs)
                weight = weight - rate * (gradient - own[name] + control)
            updated = own[name] - control + (shared - weight) / (epochs * rate)
            changes.append(updated - own[name])
            own[name] = updated
            ends.append(weight)
        shared = torch.stack(ends).mean(0)
        control = control + torch.stack(changes).mean(0)
    return shared


@pytest.mark.parametrize("epochs", [1, 3])
def test_control_variates_equal_a_loop_by_hand(epochs: int) -> None:
    federation = lines(epochs)
    fit(federation, line_data(), ROUNDS, ControlVariates(), precision="64-true")
    expected = scaffold_by_hand(ROUNDS, epochs, 0.05)
    for name in "abc":
        close(federation[name].state_dict()["backbone.weight"], expected)


def prototypes_by_hand(names: str, rounds: int, pull: float) -> dict[str, dict[str, Tensor]]:
    """States after full-batch local steps whose features are pulled towards the mean feature of each class."""
    models = {name: tiny_participant(seed=place).double() for place, name in enumerate(names)}
    data = {name: examples(12 + 4 * place, seed=place) for place, name in enumerate(names)}
    means = known = None
    for _ in range(rounds):
        for name, model in models.items():
            inputs, target = tensors_of(data[name])
            features = model.backbone(inputs)
            loss = F.cross_entropy(model.head(features), target)
            if means is not None and known is not None:
                loss = loss + pull * (known[target] * (features - means[target]).square().mean(1)).mean()
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter.sub_(0.1 * gradient)
        with torch.no_grad():
            features = torch.cat([models[name].backbone(tensors_of(data[name])[0]) for name in names])
            targets = torch.cat([tensors_of(data[name])[1] for name in names])
            means = torch.stack([features[targets == one].mean(0) for one in range(3)])
            known = torch.stack([(targets == one).any().double() for one in range(3)])
    return {name: dict(model.state_dict()) for name, model in models.items()}


def test_prototypes_equal_a_loop_by_hand() -> None:
    federation = tiny_federation(engine="sequential")
    fit(federation, tiny_data(batch_size=100, evaluated=False), ROUNDS, Prototypes(2.0), precision="64-true")
    for name, state in prototypes_by_hand("abc", ROUNDS, 2.0).items():
        close(dict(federation[name].state_dict()), state)


class Meeting(ControlVariates):
    """Everyone who has joined begins each round with the mean of all weights."""

    exchanges = (Exchange("start", "joined"),)

    def send(self, participant: Any, *args: Any) -> dict[str, Tensor]:
        return dict(participant.view_of())

    def weight_term(self, parameters: Any, context: Any) -> Any:
        return next(iter(parameters.values())).sum() * 0


@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_who_trains_has_tensors_of_its_own_after_a_result_at_a_rounds_start(engine: Any) -> None:
    # Of four participants two are sampled. Those who wait hold the result, unchanged by the steps of the others.
    federation = tiny_federation("abcd", participation=0.5, engine=engine, participant={"shared": ("*",)})
    snapshots = Snapshots()
    fit(federation, tiny_data("abcd", batch_size=100, evaluated=False), 1, Meeting(), snapshots)
    (start,), (end,) = snapshots.starts, snapshots.ends
    mean = {key: torch.stack([start[name][key] for name in "abcd"]).mean(0) for key in start["a"]}
    trained = federation.active_names(0)
    assert len(trained) == 2
    for place, name in enumerate("abcd"):
        model, own = tiny_participant(), examples(12 + 4 * place, seed=place)
        model.load_state_dict(mean)
        assert own.targets is not None
        loss = F.cross_entropy(model(own.inputs), own.targets)
        steps = torch.autograd.grad(loss, list(model.parameters()))
        for (key, began), gradient in zip(model.named_parameters(), steps, strict=True):
            expected = began - 0.1 * gradient if name in trained else began
            torch.testing.assert_close(end[name][key], expected.detach())


def test_who_has_a_loss_of_its_own_is_refused_beside_a_method_that_shapes_it() -> None:
    class Own(type(tiny_participant())):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx)

    federation = Federation({"a": Own(nn.Linear(4, 5), nn.Linear(5, 3), optimizer=sgd()), "b": tiny_participant()})
    with pytest.raises(ValueError, match=r"'a': Prototypes shapes the loss of each example.*Own\.training_step"):
        fit(federation, tiny_data("ab"), 2, Prototypes())
    assert not federation.has_trained


@pytest.mark.parametrize("make", [Prototypes, ControlVariates, Rumour])
@pytest.mark.parametrize("steps", [None, 5])
def test_a_resumed_run_equals_one_that_was_never_stopped(make: Any, steps: int | None, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    whole = tiny_federation(participation=0.7, participant={"shared": ("*",)})

    def saving(folder: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / folder, "{epoch}-{step}", save_top_k=-1, every_n_train_steps=steps)

    fit(whole, tiny_data(), 4, make(), saving("whole"), **settings)
    paths = sorted(tmp_path.glob("whole/*.ckpt"))
    assert len(paths) > 3
    for path in paths[1:3]:
        resumed = tiny_federation(participation=0.7, participant={"shared": ("*",)})
        fit(resumed, tiny_data(), 4, make(), saving(path.stem), ckpt_path=path, **settings)
        assert equal(state_of(resumed), state_of(whole)), path.name


def test_bytes_are_counted_by_method() -> None:
    run = fit(tiny_federation(), tiny_data(), 2, Prototypes())
    # 3 participants send sums (3, 5) and counts (3,) in float32, and receive (3, 5) and (3,).
    assert run.callback_metrics["federation/bytes_up/Prototypes"] == 3 * 4 * (15 + 3)
    assert run.callback_metrics["federation/bytes_down/Prototypes"] == 3 * 4 * (15 + 3)
    assert run.callback_metrics["federation/bytes_up"] == 3 * 4 * (15 + 3)
    assert run.callback_metrics["federation/classes"] == 3


def test_two_methods_of_one_class_are_told_apart_by_their_names() -> None:
    def named(name: str, pull: float) -> Prototypes:
        made = Prototypes(pull)
        made.name = name
        return made

    run = fit(tiny_federation(), tiny_data(), 2, named("near", 1.0), named("far", 0.1))
    both = tiny_federation()
    fit(both, tiny_data(), 2, Prototypes(1.1))
    assert "federation/bytes_up/Prototypes:near" in run.callback_metrics
    # Pulls to one and the same mean add up.
    one = run.lightning_module
    assert isinstance(one, Federation)
    for name in "abc":
        torch.testing.assert_close(dict(one[name].state_dict()), dict(both[name].state_dict()))


class Broken(Prototypes):
    """Messages of one participant, and results, that cannot be used."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def send(self, participant: Any, data: Any, work: Any, context: Any) -> Any:
        message = dict(super().send(participant, data, work, context))
        if participant.name == "b" and self.fault == "nan":
            message["sums"] = message["sums"] * float("nan")
        if participant.name == "b" and self.fault == "shape" and context.round_index == 1:
            message["sums"] = message["sums"][:2]
        return [message] if self.fault == "list" else message

    def combine(self, *args: Any) -> Any:
        combined = super().combine(*args)
        if self.fault == "result":
            return combined.state
        if self.fault == "infinite":
            return Combined({"prototypes": torch.tensor(float("inf"))})
        return combined


def test_whose_message_is_not_finite_is_left_out_by_name(caplog: pytest.LogCaptureFixture) -> None:
    run = fit(tiny_federation(), tiny_data(), 2, Broken("nan"))
    assert run.callback_metrics["quarantined/b"] == 1
    assert "its message is not finite at sums" in caplog.text
    assert run.callback_metrics["federation/bytes_up"] == 2 * 4 * (15 + 3)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("shape", r"Round 1: participant 'b'.*expected sums of shape \(3, 5\).*got shape \(2, 5\)"),
        ("list", "expected tensors by key, got list"),
        ("result", "expected a Combined, got dict"),
        ("infinite", "not finite at prototypes"),
    ],
)
def test_what_cannot_be_used_ends_in_a_sentence(fault: str, message: str) -> None:
    with pytest.raises((MessageError, RuntimeError), match=message):
        fit(tiny_federation(), tiny_data(), 2, Broken(fault))


class Means(ControlVariates):
    """Plain means of everything shared."""

    def send(self, participant: Any, data: Any, work: Any, context: Any) -> Any:
        return participant.view_of(participant.averaged_keys())

    def combine(self, sent: Any, asked: Any, about: Any, server: Any, round_index: int) -> Combined:
        keys = next(iter(sent.values()))
        return Combined({key: torch.stack([one[key] for one in sent.values()]).mean(0) for key in keys})


def test_newcomers_and_those_who_were_not_sampled_receive_what_is_current() -> None:
    participants = {name: tiny_participant(seed=place) for place, name in enumerate("abcd")}
    participants["d"] = tiny_participant(seed=3, joins_at=2)
    federation = Federation(participants, participation=0.5, seed=1)
    seen = Snapshots()
    fit(federation, tiny_data("abcd"), 4, Means(), seen)
    shared = [
        {name: {k: v for k, v in state.items() if k.startswith("backbone")} for name, state in one.items()}
        for one in seen.ends
    ]
    for one in shared[2:]:
        for name in "bcd":
            assert equal(one["a"], one[name]), name
    assert not equal(shared[0]["a"], shared[0]["d"])


class Swap(Means):
    """Each participant receives the weights of the next."""

    exchanges = (Exchange("start"),)

    def combine(self, sent: Any, asked: Any, about: Any, server: Any, round_index: int) -> Combined:
        names = list(sent)
        return Combined(
            PerParticipant({name: sent[other] for name, other in zip(names, names[1:] + names[:1], strict=True)})
        )


def test_results_can_differ_between_participants_and_travel_before_the_local_steps() -> None:
    federation = tiny_federation(participant={"optimizer": sgd(0.0)})
    before = {name: state_of(federation[name].backbone) for name in "abc"}
    fit(federation, tiny_data(), 1, Swap())
    for name, other in zip("abc", "bca", strict=True):
        assert equal(state_of(federation[name].backbone), before[other])


class Peek(Means):
    """Sums of the weights as participants send them."""

    replaces_state = False

    def send(self, participant: Any, data: Any, work: Any, context: Any) -> Any:
        return {"sum": super().send(participant, data, work, context)["backbone.0.weight"].sum().double()}

    def combine(self, sent: Any, asked: Any, about: Any, server: Any, round_index: int) -> Combined:
        return Combined(None, {f"sum_of_{name}": float(one["sum"]) for name, one in sent.items()})


@pytest.mark.parametrize("last", [Means, BackboneAveraging])
def test_all_messages_of_a_moment_are_sent_before_a_result_is_handed_out(last: Any) -> None:
    run = fit(tiny_federation(), tiny_data(), 1, last(), Peek())
    assert len({float(run.callback_metrics[f"federation/sum_of_{name}"]) for name in "abc"}) == 3


def test_a_method_without_messages_is_a_term_alone() -> None:
    class Decay(Prototypes):
        exchanges = ()

        def weight_term(self, parameters: Any, context: Any) -> Tensor:
            return 0.5 * torch.stack([one.square().sum() for one in parameters.values()]).sum()

        def example_loss(self, own: Tensor, *args: Any) -> Tensor:
            return own

    decayed, plain = tiny_federation(), tiny_federation(participant={"optimizer": sgd(0.1, weight_decay=1.0)})
    run: L.Trainer = fit(decayed, tiny_data(), 2, Decay())
    fit(plain, tiny_data(), 2)
    torch.testing.assert_close(state_of(decayed), state_of(plain))
    assert run.callback_metrics["federation/bytes_up"] == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_weights_may_be_changed_after_each_step(accumulate: int, caplog: pytest.LogCaptureFixture) -> None:
    radius, rate = 0.3, 0.2
    model, data = tiny_participant().double(), tensors_of(examples(12))
    for _ in range(2):
        inputs, target = data
        gradients = torch.autograd.grad(F.cross_entropy(model(inputs), target), list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.sub_(rate * gradient)
                parameter.mul_((radius / parameter.norm()).clamp(max=1.0))
    settings: dict[str, Any] = {"optimizer": sgd(rate), "local_epochs": accumulate}
    federation = tiny_federation("ab", participant=settings | {"accumulate_grad_batches": accumulate})
    with caplog.at_level("INFO", "hetfed_lightning"):
        fit(federation, tiny_data("ab", batch_size=100, evaluated=False), 2, InBall(radius), precision="64-true")
    close(dict(federation["a"].state_dict()), dict(model.state_dict()))
    assert "acts after each step" not in caplog.text


@pytest.mark.parametrize("engine", ["vmap", "batched"])
def test_weights_are_changed_after_each_step_of_a_fleet(engine: Any) -> None:
    def trained(how: Any) -> dict[str, Tensor]:
        made = tiny_federation(engine=how, participant={"optimizer": sgd(0.2, momentum=0.9), "local_epochs": 2})
        fit(made, tiny_data(batch_size=5), 2, InBall(0.3), precision="64-true")
        return state_of(made)

    close(trained(engine), trained("sequential"))


def test_a_callback_that_follows_steps_takes_participants_out_of_fleets(caplog: pytest.LogCaptureFixture) -> None:
    class Follows(FederatedCallback):
        def follows_steps(self) -> bool:
            return True

    with caplog.at_level("INFO", "hetfed_lightning"):
        fit(tiny_federation(), tiny_data(), 1, Follows())
    assert "everyone trains one after another, since Follows acts after each step of each participant" in caplog.text


def test_what_was_saved_is_brought_to_the_device() -> None:
    # Checkpoints are read on the CPU; the device "meta" stands for a GPU.
    method = ControlVariates()
    fit(tiny_federation("ab"), tiny_data("ab"), 2, method)
    carrier = LocalCarrier(method)
    assert method.carrier is not None
    carrier.load_state_dict(method.carrier.state_dict())
    (memory,) = carrier.server.memory.values()
    memory.tensors = {"some": [torch.ones(2)], "count": 3}
    memory.own = {"a": {"one": torch.ones(1)}}
    carrier.server.to(torch.device("meta"))
    carrier.participants.to(torch.device("meta"))
    held = [*memory.last.values(), memory.tensors["some"][0], memory.own["a"]["one"]]
    held += [one for own in carrier.participants.memory.values() for one in own.values()]
    assert {one.device.type for one in held} == {"meta"}
    assert memory.tensors["count"] == 3
