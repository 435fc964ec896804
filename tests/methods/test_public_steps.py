"""Planned steps on public data, against loops by hand: at every moment, in fleets, resumed, refused."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed_lightning import DPSGD, BackboneAveraging, Federation, Participant
from hetfed_lightning.data import Examples, FederatedDataModule
from hetfed_lightning.fleets import EngineName
from hetfed_lightning.methods.plans import Part, PlanError, spans
from hetfed_lightning.participants.multi_input import MultiInputParticipant
from hetfed_lightning.seeding import stream_generator
from tests.federations import (
    Snapshots,
    equal,
    examples,
    fit,
    sgd,
    state_of,
    tiny_data,
    tiny_federation,
    tiny_participant,
)
from tests.fleets.kin import NAMES, OPTIMIZERS, classes, furthest, members, trained
from tests.fleets.spies import alone
from tests.methods.planned import HEAD, FedMD, Planned

ROUNDS = 3
MOMENTUM = sgd(momentum=0.9, weight_decay=0.01)
PUBLIC: Any = examples(10, seed=300).inputs
SEED = 0


def close(one: Any, other: Any) -> None:
    """Equal but for rounding in float64."""
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


# By hand


def order(stream: str, name: str, round_index: int, done: int, size: int) -> list[Tensor]:
    """Batches of one pass over the public set."""
    generator = stream_generator(SEED, stream, name, round_index, done)
    return list(torch.randperm(len(PUBLIC), generator=generator).split(size))


class ByHand:
    """A participant trained by hand: full batches of its own, public batches in the order that is given."""

    def __init__(self, name: str) -> None:
        self.name, self.model = name, tiny_participant(seed="abc".index(name)).double()
        self.data = examples(12 + 4 * "abc".index(name), seed="abc".index(name))
        self.optimizer = MOMENTUM(self.model.parameters())

    def outputs(self) -> Tensor:
        outputs: Tensor = self.model(PUBLIC.double())
        return outputs.detach()

    def own(self) -> Tensor:
        assert isinstance(self.data.inputs, Tensor)
        assert self.data.targets is not None
        return F.cross_entropy(self.model(self.data.inputs.double()), self.data.targets)

    def public(self, indices: Tensor, towards: Tensor) -> Tensor:
        apart: Tensor = self.model(PUBLIC[indices].double()) - towards[indices]
        return apart.square().sum(1).mean()

    def step(self, loss: Tensor, still: nn.Module | None = None) -> None:
        self.model.zero_grad()
        loss.backward()
        for one in () if still is None else still.parameters():
            one.grad = None
        self.optimizer.step()


def mean_of(models: Sequence[ByHand]) -> Tensor:
    return torch.stack([one.outputs() for one in models]).mean(0)


def run(method: Any, *more: L.Callback, names: str = "abc", rounds: int = ROUNDS, **settings: Any) -> Federation:
    federation = tiny_federation(names, engine="sequential", participant={"optimizer": MOMENTUM})
    fit(federation, tiny_data(names, batch_size=100), rounds, *more, method, precision="64-true", **settings)
    return federation


def assert_by_hand(federation: Federation, models: Sequence[ByHand]) -> None:
    for one in models:
        close(dict(federation[one.name].state_dict()), dict(one.model.state_dict()))


@pytest.mark.parametrize("moment", ["received", "last"])
def test_everyone_learns_what_it_has_received_as_by_hand(moment: str) -> None:
    method = FedMD({moment: [Part(epochs=2, on="public", batch_size=4), Part(steps=2, on="public", trains=HEAD)]})
    models = list(map(ByHand, "abc"))
    for index in range(ROUNDS):
        for one in models:
            one.step(one.own())
        towards = mean_of(models)
        for one in models if moment == "received" or index == ROUNDS - 1 else ():
            ordered = partial(order, f"FedMD {moment}", one.name, index)
            for indices in [*ordered(0, 4), *ordered(1, 4)]:
                one.step(one.public(indices, towards))
            for indices in [*ordered(2, 64), *ordered(3, 64)]:
                one.step(one.public(indices, towards), still=one.model.backbone)
    assert_by_hand(run(method), models)


def test_local_steps_on_own_and_public_data_and_both_equal_a_loop_by_hand() -> None:
    local = [Part(epochs=1), Part(epochs=1, on="public", batch_size=4), Part(steps=2, on="both", batch_size=3),
             Part(steps=1, on="public", batch_size=7)]  # fmt: skip
    models = list(map(ByHand, "abc"))
    towards = None
    for index in range(ROUNDS):
        for one in models:
            own = partial(order, "FedMD local", one.name, index)
            one.step(one.own())
            if towards is None:  # Nobody has received anything: the steps on public data are left out.
                one.step(one.own())
                one.step(one.own())
                continue
            for indices in own(0, 4):
                one.step(one.public(indices, towards))
            # Steps 4 and 5 of the round; a pass has 4 batches.
            for indices in own(1, 3)[:2]:
                one.step(one.own() + one.public(indices, towards))
            one.step(one.public(own(1, 7)[0], towards))
        towards = mean_of(models)
    federation = run(FedMD({"local": local}))
    assert_by_hand(federation, models)
    # A pass of own data, three public batches, two of both, a public one.
    assert federation.local["a"].progress == 3 + 2 * 7


@pytest.mark.parametrize("last", [None, 1])
def test_public_batches_go_along_with_another_methods_plan(last: int | None) -> None:
    lengths = {"a": lambda _: [Part(epochs=3)], "b": lambda _: [Part(epochs=1, trains=HEAD), Part(epochs=1)]}
    models = list(map(ByHand, "abc"))
    towards = None
    for index in range(ROUNDS):
        for one in models:
            epochs = {"a": 3, "b": 2, "c": 1}[one.name]
            for epoch in range(epochs):
                loss = one.own()
                if towards is not None and (last is None or epoch == epochs - 1):
                    loss = loss + one.public(order("FedMD local", one.name, index, 0, 3)[epoch], towards)
                one.step(loss, one.model.backbone if one.name == "b" and epoch == 0 else None)
        towards = mean_of(models)
    method = FedMD({"local": [Part(on="both", batch_size=3, last_epochs=last)]})
    assert_by_hand(run(method, Planned(lengths)), models)


def test_newcomers_learn_what_is_current_before_their_first_local_step() -> None:
    federation = tiny_federation("ab", engine="sequential", participant={"optimizer": MOMENTUM})
    federation["b"].joins_at = 1
    seen = Snapshots()
    method = FedMD({"joined": [Part(epochs=1, on="public", batch_size=4)]})
    still = Planned({"b": lambda _: [Part(steps=0)]})
    fit(federation, tiny_data("ab", batch_size=100), 2, method, still, seen, precision="64-true")
    first, second = ByHand("a"), ByHand("b")
    first.step(first.own())
    for indices in order("FedMD joined", "b", 1, 0, 4):
        second.step(second.public(indices, mean_of([first])))
    close(seen.ends[1]["b"], dict(second.model.state_dict()))


def test_an_optimizer_of_a_part_is_no_local_work() -> None:
    """Only averaging sees the count; whoever has taken no local step sends nothing, whatever it has learned."""
    method = FedMD({"received": [Part(epochs=1, on="public", optimizer=sgd(0.1))]})
    federation = run(method, Planned({"a": lambda _: [Part(steps=0)]}))
    assert {name: federation.local[name].landed for name in "abc"} == {"a": 0, "b": 1, "c": 1}
    assert {name: federation.local[name].progress for name in "abc"} == {"a": 0, "b": ROUNDS, "c": ROUNDS}


# Fleets, replicas, resume

LOCAL = [Part(epochs=1), Part(epochs=1, on="public", batch_size=4), Part(steps=2, on="both", batch_size=3)]
PLANS: dict[str, Mapping[str, Sequence[Part]]] = {
    "received": {"received": [Part(epochs=2, on="public", batch_size=4), Part(steps=2, on="public", trains=HEAD)]},
    "an optimizer of its own": {
        "received": [Part(epochs=2, on="public", batch_size=4, optimizer=sgd(0.2, momentum=0.9))]
    },
    "last": {"last": [Part(steps=5, on="public", batch_size=3)]},
    "local": {"local": LOCAL},
    "along": {"local": [Part(on="both", batch_size=4)]},
}


class Lengths(Planned):
    """Members of a fleet at different parts, so that some are on public data and others are not."""

    def __init__(self) -> None:
        super().__init__({"a": lambda _: [Part(epochs=2)], "c": lambda _: [Part(epochs=1)]})


@pytest.mark.parametrize("engine", ["batched", pytest.param("vmap", marks=pytest.mark.slow)])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("momentum", marks=pytest.mark.slow)])
def test_a_fleet_learns_what_its_members_learn_one_after_another(
    engine: str, plan: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, transform = [], {"a": lambda x: x + torch.randn_like(x), "b": None, "c": None, "d": lambda x: 2 * x}
    for each in ("sequential", engine):
        parts = members(OPTIMIZERS[optimizer], transform=transform, gradient_clip_val=0.5)
        with monkeypatch.context() as patch:
            steps = alone(patch)
            data = classes(torch.float64, public=11)
            ends.append(trained(each, data, parts, FedMD(PLANS[plan]), BackboneAveraging(), rounds=3,
                                precision="64-true"))  # fmt: skip
    # Members at one part of a plan step at once; where they are of two, some are not among the first rows.
    assert steps == [] or plan == "local"
    assert furthest(ends[1], ends[0]) < 1e-10
    counts = [{name: end.local[name].progress for name in NAMES} for end in ends]
    assert counts[0] == counts[1]


def test_all_of_a_fleet_are_on_public_data_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = alone(monkeypatch)
    plan = {"local": [Part(steps=2), Part(steps=3, on="public", batch_size=4)]}
    ends = []
    for each in ("sequential", "batched"):
        del steps[:]
        data = classes(torch.float64, public=11)
        ends.append(trained(each, data, members(OPTIMIZERS["adam"]), FedMD(plan), rounds=3, precision="64-true"))
    assert steps == []
    assert furthest(ends[1], ends[0]) < 1e-10


class Adapted(FedMD):
    """Outputs pass through a module of the method's own."""

    def modules(self, participant: Participant) -> dict[str, nn.Module]:
        return {"adapter": nn.Linear(3, 3)}

    def example_loss(
        self, own: Any, inputs: Any, features: Tensor, outputs: Tensor, target: Tensor, on: Any, context: Any
    ) -> Tensor:
        outputs = context.modules["adapter"](outputs)
        return super().example_loss(own, inputs, features, outputs, target, on, context)


class Beside(FedMD):
    """Modules of another method's, which is for own examples alone."""

    exchanges = ()
    public_alone = False

    def modules(self, participant: Participant) -> dict[str, nn.Module]:
        return {"other": nn.Linear(6, 3)}

    def example_loss(self, own: Any, inputs: Any, features: Tensor, outputs: Tensor, *rest: Any) -> Tensor:
        apart: Tensor = outputs - rest[-1].modules["other"](inputs)
        shaped: Tensor = own + apart.square().sum(1)
        return shaped


@pytest.mark.parametrize("plan", ["received", "local", "along"])
@pytest.mark.parametrize("methods", [lambda plan: [Adapted(plan)], lambda plan: [FedMD(plan), Beside({})]])
def test_modules_of_methods_are_trained_by_the_losses_that_they_are_in(plan: str, methods: Any) -> None:
    ends = []
    for each in ("sequential", "vmap"):
        data, parts = classes(torch.float64, public=11), members(OPTIMIZERS["adamw"])
        federation = Federation(parts, engine=each)
        fit(federation, data, 3, *methods(PLANS[plan]), precision="64-true")
        ends.append(federation)
    assert furthest(ends[1], ends[0]) < 1e-10


class Broken(FedMD):
    """Reads a value, which nothing that is computed for all at once can."""

    def example_loss(self, *args: Any) -> Tensor:
        loss = super().example_loss(*args)
        return loss if float(loss.detach().sum()) >= 0 else -loss


@pytest.mark.parametrize("plan", ["received", "along"])
def test_what_cannot_be_computed_at_once_goes_one_after_another(plan: str, caplog: pytest.LogCaptureFixture) -> None:
    ends = []
    engines: tuple[EngineName, ...] = ("sequential", "batched")
    for engine in engines:
        federation = Federation(members(OPTIMIZERS["adam"]), engine=engine)
        fit(federation, classes(torch.float64, public=11), 2, Broken(PLANS[plan]), precision="64-true")
        ends.append(federation)
    assert "since a step failed (RuntimeError" in caplog.text
    assert furthest(ends[1], ends[0]) < 1e-12


@pytest.mark.parametrize("engine", [pytest.param("sequential", marks=pytest.mark.slow), "batched"])
def test_a_run_resumes_in_every_bit(engine: Any, tmp_path: Path) -> None:
    plans = {"received": PLANS["received"]["received"], "local": [*LOCAL, Part(on="both", batch_size=5)]}

    def run(folder: str, **settings: Any) -> Federation:
        saving = ModelCheckpoint(tmp_path / folder, "{step}", every_n_train_steps=3, save_top_k=-1)
        federation = Federation(members(OPTIMIZERS["adam"]), engine=engine)
        fit(federation, classes(torch.float32, public=11), 3, FedMD(plans), BackboneAveraging(), saving,
            enable_checkpointing=True, **settings)  # fmt: skip
        return federation

    whole = run("whole")
    for path in sorted(tmp_path.glob("whole/*.ckpt")):
        assert equal(state_of(run(path.stem, ckpt_path=path)), state_of(whole)), path.name


# Lengths


class Foreseeing(Participant):
    foreseen: Any = None

    def configure_optimizers(self) -> Any:
        self.foreseen = self.trainer.estimated_stepping_batches
        return super().configure_optimizers()


@pytest.mark.parametrize("accumulated", [1, 2])
def test_steps_are_foreseen(accumulated: int) -> None:
    own: dict[str, Any] = {"optimizer": sgd(), "accumulate_grad_batches": accumulated}
    made = {name: Foreseeing(nn.Linear(4, 5), nn.Linear(5, 3), **own) for name in "abc"}
    made["b"].joins_at = 1
    moments = ("received", "last", "joined")
    plans = {moment: [Part(steps=2, on="public"), Part(epochs=1, on="public", batch_size=4)] for moment in moments}
    federation = Federation(dict(made))
    fit(federation, tiny_data(), ROUNDS, FedMD(plans | {"local": LOCAL}, first=1))
    assert {name: federation.local[name].progress for name in made} == {
        name: one.foreseen for name, one in made.items()
    }


def test_a_pass_over_the_public_set_begins_with_its_part() -> None:
    parts = [Part(steps=2), Part(steps=5, on="public", batch_size=4), Part(epochs=1, on="public", batch_size=5)]
    found = spans(parts, 3, 100, 10)
    assert [(one.start, one.stop, one.first_pass) for one in found] == [(0, 2, 0), (2, 7, 0), (7, 9, 2)]
    assert [found[1].place(step, 10) for step in range(2, 7)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert [found[2].place(step, 10) for step in (7, 8)] == [(2, 0), (2, 1)]


def test_no_own_batch_is_drawn_for_a_step_on_public_data() -> None:
    class Counting(torch.utils.data.Dataset[Any]):
        def __init__(self) -> None:
            self.inside, self.read = examples(12), 0

        def __len__(self) -> int:
            return len(self.inside)

        def __getitem__(self, index: int) -> Any:
            self.read += 1
            return self.inside[index]

    own = Counting()
    data = FederatedDataModule({"a": own}, public=examples(10, seed=300), batch_size=4)
    plan = [Part(steps=1), Part(steps=4, on="public"), Part(steps=2)]
    federation = tiny_federation("a")
    before = own.read
    fit(federation, data, 2, FedMD({"local": plan}), Planned({}))
    looked_at = own.read - before - 2 * 3 * 4
    assert 0 <= looked_at < 1 + 12  # Before training.


# Who does not learn


def named(count: int, *keys: str, seed: int = 0) -> Any:
    inputs = {key: torch.randn(count, 4, generator=torch.Generator().manual_seed(seed + len(key))) for key in keys}
    return Examples(inputs, next(iter(inputs.values()))[:, :3].argmax(1))


def test_who_reads_nothing_of_the_public_set_abstains_by_name(caplog: pytest.LogCaptureFixture) -> None:
    def make(key: str) -> Participant:
        torch.manual_seed(0)
        return MultiInputParticipant(nn.Linear(4, 5), nn.Linear(5, 3), reads=key, optimizer=sgd())

    class Given(FedMD):
        exchanges = ()

        def example_loss(self, own: Any, inputs: Any, features: Tensor, outputs: Tensor, *rest: Any) -> Tensor:
            assert features.shape[1] == 5
            return outputs.square().sum(1)

    def run(*methods: L.Callback) -> Federation:
        federation = Federation({"a": make("image"), "b": make("gene")})
        train = {"a": named(8, "image"), "b": named(8, "gene")}
        data = FederatedDataModule(train, public=named(6, "image", seed=7), batch_size=4)
        with caplog.at_level("INFO", "hetfed_lightning"):
            fit(federation, data, 2, *methods)
        return federation

    plans = {
        "received": [Part(epochs=1, on="public")],
        "local": [Part(epochs=1, on="both"), Part(steps=3, on="public")],
    }
    learned, plain = run(Given(plans)), run()
    assert equal(state_of(learned["b"]), state_of(plain["b"]))
    assert not equal(state_of(learned["a"]), state_of(plain["a"]))
    said = [one.message for one in caplog.records if "reads nothing of the public set" in one.message]
    assert said == [
        "participant 'b' reads nothing of the public set, which has 'image': it neither teaches nor learns on it."
    ]


def test_a_student_learns_on_public_data_alone() -> None:
    class Flat(FedMD):
        exchanges = ()

        def example_loss(self, own: Any, inputs: Any, features: Tensor, outputs: Tensor, *rest: Any) -> Tensor:
            return outputs.square().sum(1)

    federation = tiny_federation("a", student=tiny_participant(seed=2, optimizer=MOMENTUM))
    parts = [Part(epochs=1), Part(epochs=1, on="public", batch_size=4), Part(epochs=1, on="both")]
    fit(federation, tiny_data("a"), 2, Flat({"received": parts}), precision="64-true")
    model = ByHand("c")
    for index in range(2):
        for indices in order("Flat received", "student", index, 0, 4):
            model.step(model.model(PUBLIC[indices].double()).square().sum(1).mean())
    assert federation.student is not None
    close(dict(federation.student.state_dict()), dict(model.model.state_dict()))


def test_a_participant_with_a_training_step_of_its_own_learns_by_a_second_pass() -> None:
    class Own(Participant):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    ends = []
    for kind in (Participant, Own):
        torch.manual_seed(0)
        one = kind(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Linear(5, 3), optimizer=sgd())
        federation = Federation({"a": one})
        fit(federation, tiny_data("a"), 3, FedMD({"local": [Part(on="both")], **PLANS["received"]}))
        ends.append(state_of(federation))
    assert equal(*ends)


# Refusals


class Silent(FedMD):
    def example_loss(self, *args: Any) -> Any:
        return None


class Wide(FedMD):
    def example_loss(self, own: Any, inputs: Any, features: Any, outputs: Tensor, *rest: Any) -> Tensor:
        return outputs.square()


def refusals() -> Iterator[Any]:
    private: dict[str, Any] = {"privacy": DPSGD(1.0, 0.5, 1e-3)}
    public = Part(epochs=1, on="public")
    yield pytest.param("received", [public], {}, {"public": None}, "FedMD needs a public set.*public=", id="no set")
    yield pytest.param("local", [Part(on="both")], private, {}, "no mean over its own examples.*DP-SGD", id="along")
    yield pytest.param("local", [public], private, {}, "account of DP-SGD counts", id="private local")
    yield pytest.param(
        "received", [Part(steps=1, on="both")], private, {}, "no mean over its own examples", id="private"
    )
    yield pytest.param("received", [Part(on="both")], {}, {}, "goes along with local steps", id="along later")


@pytest.mark.parametrize(("moment", "parts", "settings", "data", "message"), list(refusals()))
def test_what_cannot_be_followed_is_refused_before_training(
    moment: str, parts: list[Part], settings: dict[str, Any], data: dict[str, Any], message: str
) -> None:
    federation = tiny_federation(participant=settings)
    start = state_of(federation)
    with pytest.raises(PlanError, match=rf"participant 'a', round 0: FedMD.plan for the moment '{moment}'.*{message}"):
        fit(federation, tiny_data(**data), 1, FedMD({moment: parts}))
    assert equal(state_of(federation), start)


def test_a_last_public_batch_of_one_is_refused_where_it_cannot_be_normalised() -> None:
    one = Participant(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), nn.Linear(5, 3), optimizer=sgd())
    method = FedMD({"received": [Part(epochs=1, on="public", batch_size=3)]})
    with pytest.raises(ValueError, match=r"'a': 10 public examples in batches of 3.*batch_size of FedMD's Parts"):
        fit(Federation({"a": one}), tiny_data("a"), 1, method)


@pytest.mark.parametrize(("kind", "found"), [(Silent, "NoneType"), (Wide, r"shape \(10, 3\)")])
def test_a_loss_that_is_none_of_each_example_is_refused_by_name(kind: Any, found: str) -> None:
    with pytest.raises(ValueError, match=rf'{kind.__name__}.example_loss\(on="public"\): expected.*got {found}'):
        fit(tiny_federation(), tiny_data(), 1, kind({"received": [Part(epochs=1, on="public")]}))


def test_learning_on_public_data_releases_nothing() -> None:
    federation = tiny_federation("a", participant={"privacy": DPSGD(1.0, 0.5, 1e-3)})
    plain = tiny_federation("a", participant={"privacy": DPSGD(1.0, 0.5, 1e-3)})

    class Given(FedMD):
        exchanges = ()

        def example_loss(self, own: Any, inputs: Any, features: Any, outputs: Tensor, *rest: Any) -> Tensor:
            return outputs.square().sum(1)

    fit(federation, tiny_data("a"), 2, Given({"received": [Part(epochs=3, on="public")]}))
    fit(plain, tiny_data("a"), 2)
    assert federation["a"].ledger.state() == plain["a"].ledger.state()
    assert not equal(state_of(federation), state_of(plain))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected one of epochs and steps"),
        ({"on": "public"}, "expected one of epochs and steps"),
        ({"on": "both", "trains": HEAD}, "leave out trains and optimizer"),
        ({"on": "both", "steps": 1, "last_epochs": 1}, "a part that goes along"),
        ({"on": "both", "last_epochs": 0}, "last_epochs=.*at least 1"),
        ({"on": "public", "steps": 1, "batch_size": 0}, "batch_size=.*at least 1"),
    ],
)
def test_parts_that_mean_nothing(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Part(**settings)
